//! The entry point of child processes: this binary again, in the role that the parent names.

use crate::{bad_input, cancel, exclusion, replaced, support};

type Role = fn(&[String]);

const ROLES: &[(&str, Role)] = &[
    ("locker", support::locker::serve),
    ("count", exclusion::count),
    ("read and write", exclusion::read_and_write),
    ("count impatiently", cancel::count_impatiently),
    ("count verified", replaced::count_verified),
    ("remove", replaced::remove),
    ("create with modes", bad_input::create_with_modes),
    ("run out of descriptors", bad_input::run_out_of_descriptors),
];

#[test]
fn entry() {
    let Some((name, arguments)) = support::process::role() else {
        println!("no role given: this is where child processes start, and no test");
        return;
    };
    let (_, role) = ROLES.iter().find(|(known, _)| *known == name).expect("a known role");
    role(&arguments);
}
