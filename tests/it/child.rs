//! The entry point of child processes: this binary again, in the role that the parent names.

use std::fmt;
use std::str::FromStr;

#[cfg(unix)]
use crate::cache;
#[cfg(unix)]
use crate::unix::{
    bad_input, foreign_code, forked, holders, lock_all, network, records, removed, same, signals,
    space, tries, turns, waits,
};
#[cfg(target_os = "linux")]
use crate::unix::{descriptors, opening, refused};
use crate::{cancel, exclusion, replaced, support};

/// Makes [`Role`] of lines with the name of a role and the function that plays it.
macro_rules! roles {
    ($(#[cfg($system:meta)] { $($role:ident => $play:path,)* })*) => {
        /// What a child process does.
        #[derive(Debug, Clone, Copy)]
        pub(crate) enum Role {
            $($(#[cfg($system)] $role,)*)*
        }

        impl Role {
            const ALL: &[Self] = &[$($(#[cfg($system)] Self::$role,)*)*];

            fn play(self, arguments: &[String]) {
                match self {
                    $($(#[cfg($system)] Self::$role => $play(arguments),)*)*
                }
            }
        }
    };
}

roles! {
    #[cfg(any(unix, windows))] {
        Locker => support::locker::serve,
        Count => exclusion::count,
        ReadAndWrite => exclusion::read_and_write,
        CountImpatiently => cancel::count_impatiently,
        CountVerified => replaced::count_verified,
        Remove => replaced::remove,
        RemoveWhatOneHolds => replaced::remove_what_one_holds,
    }
    #[cfg(unix)] {
        CreateWithModes => bad_input::create_with_modes,
        RunOutOfDescriptors => bad_input::run_out_of_descriptors,
        TakeAndFree => waits::take_and_free,
        GiveUp => waits::give_up,
        Contend => waits::contend_in_child,
        Crowd => waits::crowd,
        MovingCrowd => waits::moving_crowd,
        Leave => waits::leave,
        NoMoreThreads => waits::no_more_threads,
        HoldMany => waits::hold_many_in_child,
        ReadUntilTold => turns::read_until_told,
        Write => turns::write,
        CountUntilTold => turns::count_until_told,
        RemoveByTheGuard => removed::remove_by_the_guard,
        CountAndReopen => removed::count_and_reopen,
        TakeTurns => turns::take_turns,
        Sign => turns::sign,
        KeepAHundredTasksBusy => turns::keep_a_hundred_tasks_busy,
        LockWhatIsNotOurs => lock_all::lock_what_is_not_ours,
        Transfer => lock_all::transfer,
        RunOutOfDescriptorsInASpace => space::run_out_of_descriptors,
        CountInKeys => space::count_in_keys,
        GiveUpOnANetwork => network::give_up,
        FillOnANetwork => cache::network::fill,
        StormOnANetwork => cache::network::storm_in_child,
        Signals => signals::in_child,
        WakeOnALargeStack => foreign_code::wake_on_a_large_stack,
        Fork => forked::in_child,
        HardLinksInALowerLayer => same::hard_links_in_a_lower_layer,
        LockFilesOfOneNumber => same::lock_files_of_one_number,
        OneFileOnAnOverlay => same::one_file_on_an_overlay,
        CopiedUp => same::copied_up,
        AboveAnOverlay => same::above_an_overlay,
        Hold => holders::hold,
        Look => holders::look,
        LookAsNobody => holders::look_as_nobody,
        ShareAndLookAsNobody => holders::share_and_look_as_nobody,
        ComeAndGo => holders::come_and_go,
        LockBesideACrowd => holders::lock_beside_a_crowd,
        GetAndHold => holders::get_and_hold,
        LookInAllWays => holders::look_in_all_ways,
        TryInVain => tries::try_in_vain,
        LookAtItself => holders::look_at_itself,
        TimeOutTogether => holders::time_out_together,
        LockStepByStep => records::lock_step_by_step,
        SignTenures => records::sign_tenures,
        FindNoRoom => records::find_no_room,
        ServeAFuseFileSystem => support::fuse::serve,
        TryFuse => support::fuse::probe,
        UseACache => cache::user::serve,
        FillACache => cache::fills::fill,
        StormACache => cache::storm::storm,
        CannotRemoveAll => cache::systems::without_rights,
        ReplaceBesideWhatIsStuck => cache::stuck::replace,
        PruneWhatIsStuck => cache::stuck::prune,
        ListWhatIsClosed => cache::stuck::list,
        PlantWithoutEnd => cache::strangers::plant_without_end,
        VisitACache => cache::users::visit,
        FillASmallDisk => cache::disk::on_a_small_disk,
        WriteShortFiles => cache::disk::with_short_files,
        CacheWithoutDescriptors => cache::disk::without_descriptors,
    }
    #[cfg(target_os = "linux")] {
        LockWhatIsRefused => refused::lock_what_is_refused,
        LockWhereStatxIsRefused => refused::lock_where_statx_is_refused,
        InsertADirectory => cache::directories::insert_in_child,
        OpenWhereChmodIsRefused => opening::open_where_chmod_is_refused,
        CreateStepByStep => opening::create_step_by_step,
        HaveALease => opening::have_a_lease,
        WorkInADirectory => opening::work_in_a_directory,
        LoseDescriptors => descriptors::in_child,
        InsertWithoutDescriptors => cache::descriptors::insert,
        CacheWithoutACall => cache::systems::without_a_call,
        Lease => cache::held_up::lease,
        ADeadMountInACache => cache::stuck::dead_mount,
        ManyWaitForALease => cache::many::wait_for_a_lease,
        ManyInsert => cache::many::insert,
        DropAnInsert => cache::many::drop_an_insert,
        CutThePower => cache::power::cut_the_power,
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().find(|role| role.to_string() == name);
        known.copied().ok_or_else(|| format!("no role: {name}"))
    }
}

#[test]
fn entry() {
    let Some((role, arguments)) = support::process::role() else {
        println!("no role given: this is where child processes start, and no test");
        return;
    };
    role.play(&arguments);
}
