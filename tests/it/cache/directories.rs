//! Directories as values: filled once, replaced in one step, kept by pins.

use std::convert::Infallible;
use std::fs::{self, File, FileTimes};
use std::future::pending;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;
use tokio_filelock::cache::{CacheOptions, Dir, FillError, SyncPolicy};
use tokio_filelock::{CacheDir, ErrorKind};

use super::user::User;
use super::{directory, files, open, options, temporary_files, tree};
use crate::child::Role;
use crate::support::in_time;
use crate::support::place::Place;

/// Two files of ten bytes in all, and a link.
fn fill(dir: &Path, number: u32) -> io::Result<()> {
    fs::create_dir(dir.join("below"))?;
    fs::write(dir.join("number"), format!("{number:05}"))?;
    fs::write(dir.join("below/number"), format!("{number:05}"))?;
    symlink("below/number", dir.join("link"))
}

#[track_caller]
fn number_in(dir: &Path) -> u32 {
    let mut numbers = ["number", "below/number", "link"]
        .map(|name| fs::read_to_string(dir.join(name)).unwrap().parse().unwrap())
        .to_vec();
    numbers.dedup();
    assert_eq!(numbers.len(), 1, "{dir:?} is torn");
    numbers[0]
}

async fn insert(cache: &CacheDir, key: &str, number: u32) -> Dir {
    cache.insert_dir(key, |dir| async move { fill(&dir, number) }).await.unwrap()
}

/// Deletion after the last pin is on another thread.
async fn until_there_are(count: usize, cache: &Path) {
    in_time(async {
        while tree::all(cache).len() != count || !temporary_files(cache).is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_directory_is_filled_found_listed_counted_and_removed() {
    let place = Place::new();
    let cache = open(&place).await;
    assert!(cache.get_dir("key").await.unwrap().is_none());
    let long = "k".repeat(300);
    for key in ["key", &long] {
        let filled =
            cache.get_or_insert_dir_with(key, |dir| async move { fill(&dir, 7) }).await.unwrap();
        assert_eq!((number_in(filled.path()), filled.bytes()), (7, 10));
        let not_filled = |_| async { Err::<(), _>("filled again") };
        let found = cache.get_or_insert_dir_with(key, not_filled).await.unwrap();
        assert_eq!((found.path(), found.bytes()), (filled.path(), 10));
        assert!(found.modified().elapsed().unwrap().as_secs() < 60);
        let peeked = cache.peek_dir(key).await.unwrap().unwrap();
        assert_eq!(peeked.path(), filled.path());
    }
    let mut entries = cache.entries();
    let mut listed = Vec::new();
    while let Some(entry) = entries.next().await.unwrap() {
        assert!(entry.is_directory);
        assert_eq!((number_in(&entry.path), entry.bytes), (7, 10));
        listed.push(String::from_utf8(entry.key).unwrap());
    }
    listed.sort();
    assert_eq!(listed, ["key", &long]);
    let stats = cache.recount().await.unwrap();
    assert_eq!((stats.values, stats.bytes), (2, 20));
    assert_eq!((stats.fills, stats.hits, stats.misses), (2, 2, 1));
    assert!(cache.remove("key").await.unwrap());
    assert!(!cache.remove("key").await.unwrap());
    let removed = cache.clear().await.unwrap();
    assert_eq!((removed.values, removed.bytes), (1, 10));
    until_there_are(0, &directory(&place)).await;
}

#[test]
fn blocking_forms() {
    let place = Place::new();
    let cache = options().blocking_open(directory(&place)).unwrap();
    let filled = cache.blocking_get_or_insert_dir_with("key", |dir| fill(dir, 1)).unwrap();
    let pin = filled.blocking_pin().unwrap().unwrap();
    cache.blocking_insert_dir("key", |dir| fill(dir, 2)).unwrap();
    assert_eq!(number_in(pin.path()), 1);
    let found = cache.blocking_get_dir("key").unwrap().unwrap();
    assert_eq!(number_in(found.path()), 2);
}

/// Whatever takes the key away from it, and no task waits.
#[tokio::test]
async fn a_pinned_directory_stays_until_its_last_pin_goes() {
    let place = Place::new();
    let cache = open(&place).await;
    let other = options().open(directory(&place)).await.unwrap();
    for (step, what) in ["replace", "replace by a file", "remove", "clear"].into_iter().enumerate()
    {
        insert(&cache, "key", 1).await;
        let pin = other.get_dir("key").await.unwrap().unwrap().pin().await.unwrap().unwrap();
        let (of_now, clone) = (pin.path().to_owned(), pin.clone());
        match what {
            "replace" => drop(insert(&cache, "key", 2).await),
            "replace by a file" => drop(cache.insert("key", &b"file"[..]).await.unwrap()),
            "remove" => assert!(cache.remove("key").await.unwrap()),
            _ => drop(cache.clear().await.unwrap()),
        }
        drop(pin);
        assert_eq!(number_in(&of_now), 1, "{what}");
        let left = usize::from(step == 0);
        assert_eq!(tree::all(&directory(&place)).len(), left + 1, "{what}");
        cache.prune().await.unwrap();
        assert_eq!(number_in(clone.path()), 1, "{what}");
        drop(clone);
        until_there_are(left, &directory(&place)).await;
        cache.clear().await.unwrap();
        until_there_are(0, &directory(&place)).await;
    }
}

#[tokio::test]
async fn a_pin_of_what_is_gone_is_a_miss() {
    let place = Place::new();
    let cache = open(&place).await;
    insert(&cache, "key", 1).await;
    let found = cache.get_dir("key").await.unwrap().unwrap();
    insert(&cache, "key", 2).await;
    assert!(found.pin().await.unwrap().is_none());
    assert!(!found.path().exists());
    // What a fill gives is pinned from the start.
    let filled = insert(&cache, "key", 3).await;
    cache.remove("key").await.unwrap();
    let pin = filled.pin().await.unwrap().unwrap();
    drop(filled);
    assert_eq!(number_in(pin.path()), 3);
}

#[tokio::test]
async fn a_key_has_one_value() {
    let place = Place::new();
    let cache = open(&place).await;
    let long = "k".repeat(300);
    for key in ["key", &long] {
        cache.insert(key, &b"file"[..]).await.unwrap();
        assert!(cache.get_dir(key).await.unwrap().is_none());
        drop(insert(&cache, key, 1).await);
        assert!(cache.get(key).await.unwrap().is_none());
        assert_eq!(cache.recount().await.unwrap().values, 1);
        cache.insert(key, &b"file"[..]).await.unwrap();
        assert!(cache.get_dir(key).await.unwrap().is_none());
        assert_eq!(cache.read(key).await.unwrap().unwrap(), b"file");
        assert_eq!(cache.recount().await.unwrap().values, 1);
        assert!(cache.remove(key).await.unwrap());
    }
    until_there_are(0, &directory(&place)).await;
}

#[tokio::test]
async fn a_fill_that_fails_or_is_cancelled_leaves_nothing() {
    let place = Place::new();
    let cache = open(&place).await;
    let fails = |dir: PathBuf| async move {
        fill(&dir, 1).unwrap();
        Err("failed")
    };
    for _ in 0..2 {
        let error = cache.get_or_insert_dir_with("key", fails).await.unwrap_err();
        assert!(matches!(error, FillError::Fill("failed")), "{error:?}");
        assert_eq!(tree::all(&directory(&place)), [""; 0]);
    }
    let (begun, is_begun) = tokio::sync::oneshot::channel();
    let hanging = cache.clone();
    let task = tokio::spawn(async move {
        let hangs = |dir: PathBuf| async move {
            fill(&dir, 1).unwrap();
            begun.send(dir).unwrap();
            pending::<Result<(), Infallible>>().await
        };
        hanging.get_or_insert_dir_with("key", hangs).await.unwrap()
    });
    let staged = is_begun.await.unwrap();
    assert_eq!(number_in(&staged), 1);
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_eq!(number_in(insert(&cache, "key", 2).await.path()), 2);
    until_there_are(1, &directory(&place)).await;
    let panics = cache.clone();
    let task = tokio::spawn(async move {
        let panics_ = |dir: PathBuf| async move {
            fill(&dir, 1).unwrap();
            panic!("in the middle")
        };
        panics.insert_dir::<_, _, Infallible>("key", panics_).await.unwrap()
    });
    assert!(task.await.unwrap_err().is_panic());
    until_there_are(1, &directory(&place)).await;
    assert_eq!(number_in(cache.get_dir("key").await.unwrap().unwrap().path()), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_want_a_directory_fill_it_once() {
    let place = Place::new();
    let cache = open(&place).await;
    let mut tasks = JoinSet::new();
    for number in 0..50 {
        let cache = cache.clone();
        tasks.spawn(async move {
            let fill = |dir: PathBuf| async move { fill(&dir, number) };
            let dir = cache.get_or_insert_dir_with("key", fill).await.unwrap();
            number_in(dir.pin().await.unwrap().unwrap().path())
        });
    }
    let numbers = tasks.join_all().await;
    assert!(numbers.iter().all(|number| *number == numbers[0]));
    let stats = cache.recount().await.unwrap();
    assert_eq!((stats.fills, stats.hits + stats.waits), (1, 49));
}

/// Names that are no text, directories that may not be written to, and some depth.
#[tokio::test]
async fn whatever_is_in_a_tree_is_counted_and_removed() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let place = Place::new();
    let cache = open(&place).await;
    let strange = |dir: PathBuf| async move {
        let mut below = dir.clone();
        for _ in 0..100 {
            below.push("d");
        }
        fs::create_dir_all(&below)?;
        fs::write(below.join("file"), "12345")?;
        fs::hard_link(below.join("file"), dir.join("again"))?;
        fs::write(dir.join(OsStr::from_bytes(b"\xff\n")), "1")?;
        symlink("/etc", dir.join("outside"))?;
        nix::unistd::mkfifo(&dir.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::set_permissions(below.parent().unwrap(), fs::Permissions::from_mode(0o500))?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o555))
    };
    let dir = cache.insert_dir("key", strange).await.unwrap();
    assert_eq!(dir.bytes(), 11);
    assert_eq!(dir.path().metadata().unwrap().permissions().mode() & 0o777, 0o555);
    drop(dir);
    assert!(cache.remove("key").await.unwrap());
    until_there_are(0, &directory(&place)).await;
    assert!(Path::new("/etc/passwd").exists());
    let deep = |dir: PathBuf| async move { fs::create_dir_all(dir.join("d/".repeat(200))) };
    let error = cache.insert_dir("key", deep).await.unwrap_err();
    assert!(error.to_string().contains("more than 128 directories deep"), "{error}");
    until_there_are(0, &directory(&place)).await;
}

#[tokio::test]
async fn directories_count_for_the_limit() {
    let place = Place::new();
    let cache = options().max_size(35).open(directory(&place)).await.unwrap();
    for (number, key) in ["a", "b", "c"].into_iter().enumerate() {
        insert(&cache, key, number as u32).await;
    }
    cache.insert("file", &b"12345"[..]).await.unwrap();
    assert_eq!(cache.recount().await.unwrap().bytes, 35);
    // The one that was used last stays, and what is pinned is in no other value's way.
    let pin = cache.get_dir("a").await.unwrap().unwrap().pin().await.unwrap().unwrap();
    insert(&cache, "d", 3).await;
    let stats = cache.recount().await.unwrap();
    assert!(stats.bytes <= 35, "{stats:?}");
    assert!(cache.get_dir("d").await.unwrap().is_some());
    assert_eq!(number_in(pin.path()), 0);
    // Replacing needs room for the difference only.
    insert(&cache, "d", 4).await;
    assert!(cache.recount().await.unwrap().bytes <= 35);
    // What is too large is given and not kept.
    let large = |dir: PathBuf| async move { fs::write(dir.join("large"), [0; 40]) };
    let given = cache.insert_dir("d", large).await.unwrap();
    assert_eq!(fs::read(given.path().join("large")).unwrap().len(), 40);
    assert!(cache.get_dir("d").await.unwrap().is_none());
    cache.prune().await.unwrap();
    assert!(given.path().join("large").exists());
    let path = given.path().to_owned();
    drop(given);
    in_time(async {
        while path.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// One fills, the others wait and get it; where the one who fills is killed, the next one fills.
#[test]
fn processes_fill_a_directory_once() {
    let place = Place::new();
    let path = directory(&place);
    let mut users: Vec<_> = (0..3).map(|_| User::of(&path, u64::MAX)).collect();
    users[0].start("hang-dir key 1");
    let answer = users[0].answer();
    let staged = Path::new(answer.strip_prefix("filling ").unwrap());
    assert_eq!(tree::number("key", staged), 1);
    users[1].start("fill-dir key 2");
    users[2].start("fill-dir key 2");
    users.remove(0).kill();
    assert_eq!([users[0].answer(), users[1].answer()], ["2", "2"]);
    // What the dead one has left goes when the directory is opened next.
    assert!(staged.exists());
    User::of(&path, u64::MAX).finish();
    assert!(!staged.exists());
    assert_eq!(tree::all(&path).len(), 1);
    users.into_iter().for_each(User::finish);
}

/// Other keys can be filled inside, and the same one cannot.
#[tokio::test]
async fn fills_of_directories_are_nested() {
    let place = Place::new();
    let cache = open(&place).await;
    let inner = cache.clone();
    let outer = |dir: PathBuf| async move {
        let error = inner.get_or_insert_dir_with("outer", |dir| async move { fill(&dir, 1) }).await;
        let Err(FillError::Cache(error)) = error else { panic!("filled inside of itself") };
        assert_eq!(error.kind(), ErrorKind::Deadlock);
        insert(&inner, "inner", 2).await;
        fill(&dir, 1)
    };
    assert_eq!(number_in(cache.get_or_insert_dir_with("outer", outer).await.unwrap().path()), 1);
    assert_eq!(number_in(cache.get_dir("inner").await.unwrap().unwrap().path()), 2);
}

/// In the middle of a fill: it fails, and says why; the next one fills.
#[tokio::test]
async fn a_fill_whose_directory_is_wiped_fails() {
    let place = Place::new();
    let cache = open(&place).await;
    let path = directory(&place);
    for wiped in [path.clone(), path.join("dirs")] {
        let fill_and_wipe = |dir: PathBuf| async move {
            fill(&dir, 1)?;
            fs::remove_dir_all(wiped)
        };
        let error = cache.get_or_insert_dir_with("key", fill_and_wipe).await.unwrap_err();
        assert!(error.to_string().contains("wiped while it was filled"), "{error}");
        assert!(cache.get_dir("key").await.unwrap().is_none());
        insert(&cache, "other", 3).await;
    }
    assert_eq!(number_in(insert(&cache, "key", 2).await.path()), 2);
    // A pin cannot keep what others wipe.
    let dir = cache.get_dir("key").await.unwrap().unwrap();
    fs::remove_dir_all(&path).unwrap();
    assert!(dir.pin().await.unwrap().is_none());
    assert!(cache.get_dir("key").await.unwrap().is_none());
}

/// Each policy, and a tree that is large enough for several of everything.
#[tokio::test]
async fn directories_under_each_sync_policy() {
    for policy in [SyncPolicy::Never, SyncPolicy::Values, SyncPolicy::Inserts] {
        let place = Place::new();
        let options: CacheOptions = CacheDir::options().sync(policy);
        let cache = options.open(directory(&place)).await.unwrap();
        for number in 1..3 {
            assert_eq!(number_in(insert(&cache, "key", number).await.path()), number);
        }
        assert!(cache.remove("key").await.unwrap());
        until_there_are(0, &directory(&place)).await;
    }
}

/// A walk reads the pointer.
#[tokio::test]
async fn to_walk_over_a_directory_is_no_use_of_it() {
    let place = Place::new();
    let cache = options().max_size(1 << 20).open(directory(&place)).await.unwrap();
    drop(insert(&cache, "key", 7).await);
    let is_pointer = |name: &String| name.ends_with(".dir");
    let pointer = cache.path().join(files(cache.path()).into_iter().find(is_pointer).unwrap());
    let ago = SystemTime::now() - Duration::from_secs(10 * 24 * 60 * 60);
    let times = FileTimes::new().set_accessed(ago).set_modified(ago);
    File::options().write(true).open(&pointer).unwrap().set_times(times).unwrap();
    let accessed = || fs::metadata(&pointer).unwrap().accessed().unwrap();
    let before = accessed();
    cache.prune().await.unwrap();
    cache.recount().await.unwrap();
    assert_eq!(accessed(), before);
    cache.get_dir("key").await.unwrap().unwrap();
    assert!(accessed() > before);
}

#[tokio::test]
async fn directories_grow_too_old() {
    let place = Place::new();
    let cache = open(&place).await;
    drop(insert(&cache, "key", 1).await);
    let aged = options().max_age(std::time::Duration::ZERO);
    let aged = aged.open(directory(&place)).await.unwrap();
    assert!(aged.get_dir("key").await.unwrap().is_none());
    assert!(aged.entries().next().await.unwrap().is_none());
    assert_eq!(aged.prune().await.unwrap().values, 1);
    until_there_are(0, &directory(&place)).await;
}

/// What a cache that is only read has no place for.
#[tokio::test]
async fn a_cache_that_is_only_read_fills_no_directories() {
    let place = Place::new();
    drop(insert(&open(&place).await, "key", 1).await);
    let cache = options().read_only(true).open(directory(&place)).await.unwrap();
    let dir = cache.get_dir("key").await.unwrap().unwrap();
    assert_eq!(number_in(dir.pin().await.unwrap().unwrap().path()), 1);
    let never = |_| async { panic!("filled") };
    let found = cache.get_or_insert_dir_with::<_, _, Infallible>("key", never).await.unwrap();
    assert_eq!(found.path(), dir.path());
    let error = cache.get_or_insert_dir_with::<_, _, Infallible>("new", never).await.unwrap_err();
    assert!(error.to_string().contains("read only"), "{error}");
}

/// A process that replaces a directory is killed after any of its system calls: the one before or the
/// new one is there, whole, and no other after the next open.
#[cfg(target_os = "linux")]
#[test]
fn killed_at_any_system_call_of_an_insert() {
    use crate::support::needs::{Need, lacks};
    use crate::support::process::Process;
    use crate::support::tracer::Traced;

    if lacks(&[Need::Ptrace]) {
        return;
    }
    let place = Place::new();
    // The one that is killed is another user, if the tests may change users.
    fs::set_permissions(place.directory(), fs::Permissions::from_mode(0o777)).unwrap();
    let path = directory(&place);
    let cache = options().mode(0o666).blocking_open(&path).unwrap();
    let (mut before, mut after) = (0, 0);
    // After every third call, another one each time the test runs. Before the next call nothing is different.
    for stops in (2 * fastrand::usize(..3)..).step_by(6) {
        drop(cache.blocking_insert_dir("key", |dir| fill(dir, 1)).unwrap());
        let mut process = Process::in_role(Role::InsertADirectory, &[path.to_str().unwrap()]);
        let mut traced = Traced::seize(process.event().parse().unwrap());
        process.tell("insert");
        if (0..stops).any(|_| traced.next_stop().is_none()) {
            break;
        }
        traced.kill();
        process.kill();
        options().mode(0o666).blocking_open(&path).unwrap();
        let found = cache.blocking_get_dir("key").unwrap().expect("the one or the other");
        match number_in(found.path()) {
            1 => before += 1,
            _ => after += 1,
        }
        assert_eq!(tree::all(&path).len(), 1, "killed after {stops} stops");
        assert_eq!(temporary_files(&path), [""; 0], "killed after {stops} stops");
    }
    println!(
        "killed at {} stops: {before} times the one before, {after} times the new one",
        before + after
    );
    assert!(before > 20 && after > 5);
}

/// The role `InsertADirectory`: on one thread, for there are no others.
#[cfg(target_os = "linux")]
pub(crate) fn insert_in_child(arguments: &[String]) {
    use nix::sys::resource::{Resource, setrlimit};

    use crate::support::process::{commands, say};

    let [path] = arguments else { panic!("one argument") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    crate::support::locker::become_nobody();
    setrlimit(Resource::RLIMIT_NPROC, 0, 0).unwrap();
    let cache = runtime.block_on(options().mode(0o666).open(path)).unwrap();
    say(&nix::unistd::gettid().to_string());
    commands().next().unwrap();
    drop(runtime.block_on(insert(&cache, "key", 2)));
}
