//! The parser of records takes any bytes, and what it takes for a record survives being written.
#![no_main]

libfuzzer_sys::fuzz_target!(|content: &[u8]| tokio_filelock::check_record_parser(content));
