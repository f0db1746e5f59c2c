//! System calls that are answered with an errno of the test's choice, as a sandbox or a security module
//! answers: seccomp(2) filters, which any process may install. They hold for the rest of the process, so they
//! belong into a child process.
#![allow(unsafe_code)]

use nix::libc;

/// From now on, in every thread of this process, the system call fails with this errno, if its second
/// argument is one of these; with none given, whatever it is. The last filter of a call counts.
pub(crate) fn refuse(call: libc::c_long, second: &[i32], errno: i32) {
    filter(call, second, libc::SECCOMP_RET_ERRNO | errno as u32);
}

fn filter(call: libc::c_long, second: &[i32], action: u32) {
    /// Where the words of `struct seccomp_data` are that are looked at: the number, the low half of the
    /// second argument.
    const NUMBER: u32 = 0;
    const SECOND: u32 = if cfg!(target_endian = "little") { 24 } else { 28 };

    let load = |at| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at);
    let ret = |action| statement(libc::BPF_RET | libc::BPF_K, action);
    // Jumps over so many instructions, if it is equal or if it is not.
    let is = |value, yes, no| libc::sock_filter {
        jt: yes,
        jf: no,
        ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value)
    };
    let seconds = u8::try_from(second.len()).unwrap();
    let mut program = vec![load(NUMBER), is(u32::try_from(call).unwrap(), 1, 0), ret(ALLOW)];
    if !second.is_empty() {
        program.push(load(SECOND));
        program.extend(
            (0..seconds).zip(second).map(|(at, &second)| is(second as u32, seconds - at, 0)),
        );
        program.push(ret(ALLOW));
    }
    program.push(ret(action));
    install(&mut program);
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code.try_into().unwrap(), jt: 0, jf: 0, k }
}

fn install(program: &mut [libc::sock_filter]) {
    let program =
        libc::sock_fprog { len: program.len().try_into().unwrap(), filter: program.as_mut_ptr() };
    // SAFETY: takes numbers only.
    let answer = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(answer, 0);
    let (set, in_all_threads) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
    // SAFETY: the program is valid for the call, which copies it.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, set, in_all_threads, &program) };
    assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
}
