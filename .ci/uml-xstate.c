/* For user-mode Linux 6.1 on a processor with more registers than it knows (AMX): it sets the registers of
 * its processes with PTRACE_SETREGSET and a buffer that is too short, which the kernel refuses, and it
 * panics ("ptrace set fp regs failed"). Preloaded, this puts the buffer in front of what the
 * kernel says that the rest is.
 *
 * With -DMEASURE a program that prints how many bytes the registers take.
 */
#define _GNU_SOURCE
#include <stdio.h>

#ifdef MEASURE
#include <cpuid.h>

int main(void) {
    unsigned int a, in_use, c, d;
    if (!__get_cpuid_count(0xd, 0, &a, &in_use, &c, &d)) in_use = 0;
    printf("%u\n", in_use);
}

#else
#include <dlfcn.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

#define NT_X86_XSTATE 0x202

long ptrace(enum __ptrace_request request, ...) {
    static long (*next)(enum __ptrace_request, ...);
    /* Not on the stack: that of a user-mode kernel is small. It has one thread. */
    static char registers[1 << 16] __attribute__((aligned(64)));
    va_list arguments;
    va_start(arguments, request);
    pid_t pid = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);
    if (!next) next = (long (*)(enum __ptrace_request, ...))dlsym(RTLD_NEXT, "ptrace");

    if (request == PTRACE_SETREGSET && (long)address == NT_X86_XSTATE) {
        struct iovec *given = data;
        struct iovec whole = {registers, sizeof registers};
        if (next(PTRACE_GETREGSET, pid, address, &whole) < 0) return -1;
        if (whole.iov_len > given->iov_len) {
            /* Its header says which registers have a value: none of those that it does not know. */
            memcpy(registers, given->iov_base, given->iov_len);
            return next(request, pid, address, &whole);
        }
    }
    return next(request, pid, address, data);
}
#endif
