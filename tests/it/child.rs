//! The entry point of child processes: this binary again, in the role that the parent names.

#[cfg(unix)]
use crate::unix::{
    bad_input, foreign_code, forked, holders, lock_all, network, records, removed, same, signals,
    space, tries, turns, waits,
};
#[cfg(target_os = "linux")]
use crate::unix::{descriptors, opening, refused};
use crate::{cache, cancel, exclusion, replaced, support};

type Role = fn(&[String]);

const ROLES: &[(&str, Role)] = &[
    ("locker", support::locker::serve),
    ("count", exclusion::count),
    ("read and write", exclusion::read_and_write),
    ("count impatiently", cancel::count_impatiently),
    ("count verified", replaced::count_verified),
    ("remove", replaced::remove),
    ("remove what one holds", replaced::remove_what_one_holds),
];

#[cfg(not(target_os = "linux"))]
const LINUX_ROLES: &[(&str, Role)] = &[];
#[cfg(target_os = "linux")]
const LINUX_ROLES: &[(&str, Role)] = &[
    ("lock what is refused", refused::lock_what_is_refused),
    ("insert a directory", cache::directories::insert_in_child),
];

#[cfg(not(unix))]
const UNIX_ROLES: &[(&str, Role)] = &[];
#[cfg(unix)]
const UNIX_ROLES: &[(&str, Role)] = &[
    ("create with modes", bad_input::create_with_modes),
    ("run out of descriptors", bad_input::run_out_of_descriptors),
    ("take and free", waits::take_and_free),
    ("give up", waits::give_up),
    ("contend", waits::contend_in_child),
    ("crowd", waits::crowd),
    ("moving crowd", waits::moving_crowd),
    ("leave", waits::leave),
    ("no more threads", waits::no_more_threads),
    ("hold many", waits::hold_many_in_child),
    ("read until told", turns::read_until_told),
    ("write", turns::write),
    ("count until told", turns::count_until_told),
    ("remove by the guard", removed::remove_by_the_guard),
    ("count and reopen", removed::count_and_reopen),
    ("take turns", turns::take_turns),
    ("sign", turns::sign),
    ("keep a hundred tasks busy", turns::keep_a_hundred_tasks_busy),
    ("lock what is not ours", lock_all::lock_what_is_not_ours),
    ("transfer", lock_all::transfer),
    ("run out of descriptors in a space", space::run_out_of_descriptors),
    ("count in keys", space::count_in_keys),
    ("give up on a network", network::give_up),
    ("fill on a network", cache::network::fill),
    ("storm on a network", cache::network::storm_in_child),
    ("signals", signals::in_child),
    ("wake on a large stack", foreign_code::wake_on_a_large_stack),
    #[cfg(target_os = "linux")]
    ("open where chmod is refused", opening::open_where_chmod_is_refused),
    #[cfg(target_os = "linux")]
    ("create step by step", opening::create_step_by_step),
    #[cfg(target_os = "linux")]
    ("have a lease", opening::have_a_lease),
    #[cfg(target_os = "linux")]
    ("work in a directory", opening::work_in_a_directory),
    #[cfg(target_os = "linux")]
    ("lose descriptors", descriptors::in_child),
    ("fork", forked::in_child),
    ("hard links in a lower layer", same::hard_links_in_a_lower_layer),
    ("lock files of one number", same::lock_files_of_one_number),
    ("one file on an overlay", same::one_file_on_an_overlay),
    ("copied up", same::copied_up),
    ("above an overlay", same::above_an_overlay),
    ("hold", holders::hold),
    ("look", holders::look),
    ("look as nobody", holders::look_as_nobody),
    ("share and look as nobody", holders::share_and_look_as_nobody),
    ("come and go", holders::come_and_go),
    ("lock beside a crowd", holders::lock_beside_a_crowd),
    ("get and hold", holders::get_and_hold),
    ("look in all ways", holders::look_in_all_ways),
    ("try in vain", tries::try_in_vain),
    ("look at itself", holders::look_at_itself),
    ("time out together", holders::time_out_together),
    ("lock step by step", records::lock_step_by_step),
    ("sign tenures", records::sign_tenures),
    ("find no room", records::find_no_room),
    ("serve a fuse file system", support::fuse::serve),
    ("try fuse", support::fuse::probe),
    #[cfg(target_os = "linux")]
    ("insert without descriptors", cache::descriptors::insert),
    ("use a cache", cache::user::serve),
    ("fill a cache", cache::fills::fill),
    ("storm a cache", cache::storm::storm),
    #[cfg(target_os = "linux")]
    ("cache without a call", cache::systems::without_a_call),
    #[cfg(target_os = "linux")]
    ("lease", cache::held_up::lease),
    ("cannot remove all", cache::systems::without_rights),
    ("replace beside what is stuck", cache::stuck::replace),
    ("prune what is stuck", cache::stuck::prune),
    #[cfg(target_os = "linux")]
    ("a dead mount in a cache", cache::stuck::dead_mount),
    ("list what is closed", cache::stuck::list),
    #[cfg(target_os = "linux")]
    ("many wait for a lease", cache::many::wait_for_a_lease),
    #[cfg(target_os = "linux")]
    ("many insert", cache::many::insert),
    #[cfg(target_os = "linux")]
    ("drop an insert", cache::many::drop_an_insert),
    ("plant without end", cache::strangers::plant_without_end),
    ("visit a cache", cache::users::visit),
    ("fill a small disk", cache::disk::on_a_small_disk),
    ("write short files", cache::disk::with_short_files),
    #[cfg(target_os = "linux")]
    ("cut the power", cache::power::cut_the_power),
    ("cache without descriptors", cache::disk::without_descriptors),
];

#[test]
fn entry() {
    let Some((name, arguments)) = support::process::role() else {
        println!("no role given: this is where child processes start, and no test");
        return;
    };
    let (_, role) = ROLES
        .iter()
        .chain(UNIX_ROLES)
        .chain(LINUX_ROLES)
        .find(|(known, _)| *known == name)
        .expect("a known role");
    role(&arguments);
}
