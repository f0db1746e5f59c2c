//! Another user may write to the directory, and puts what it likes in place of whatever the cache
//! touches: at rest, in the middle of an insert, and without end. Whatever comes of it, nothing outside is
//! touched, nothing hangs, and other keys do not notice.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::SystemTime;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{geteuid, mkfifo};
use tokio::io::{AsyncWriteExt, duplex};
use tokio_filelock::cache::{CacheOptions, Dir, Entry, FillError};
use tokio_filelock::{CacheDir, Error, ErrorKind};

use super::{directory, options, tree};
use crate::child::Role;
use crate::support::in_time;
use crate::support::locker::become_nobody;
use crate::support::needs::{Need, lacks};
use crate::support::place::{Place, names};
use crate::support::process::{Process, commands, say};
use crate::support::snapshot::Snapshot;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Plant {
    Nothing,
    Fifo,
    Socket,
    Device,
    LinkToFile,
    LinkToDirectory,
    LinkToNothing,
    HardLink,
    Directory,
    FullDirectory,
    HugeFile,
    ClosedFile,
    /// Another user's own file, with another mode.
    OwnFile,
}

use Plant::*;

const PLANTS: [Plant; 13] = [
    Nothing,
    Fifo,
    Socket,
    Device,
    LinkToFile,
    LinkToDirectory,
    LinkToNothing,
    HardLink,
    Directory,
    FullDirectory,
    HugeFile,
    ClosedFile,
    OwnFile,
];

/// What must not be touched: a file and a directory, beside the cache.
struct Outside {
    file: PathBuf,
    directory: PathBuf,
}

impl Outside {
    fn new(place: &Place) -> Self {
        let (file, directory) = (place.at("secret"), place.at("private"));
        fs::write(&file, "secret").unwrap();
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("file"), "private").unwrap();
        Self { file, directory }
    }

    fn look(&self) -> [Snapshot; 3] {
        [&self.file, &self.directory, &self.directory.join("file")].map(|path| Snapshot::of(path))
    }
}

/// `false` if this user cannot make such a thing.
fn plant(plant: Plant, path: &Path, outside: &Outside) -> bool {
    let _ = fs::remove_file(path).or_else(|_| fs::remove_dir_all(path));
    if let Some(parent) = path.parent() {
        let _ = fs::create_dir(parent);
    }
    let planted = match plant {
        Nothing => Ok(()),
        Fifo => mkfifo(path, Mode::from_bits_truncate(0o666)).map_err(Into::into),
        // The path of a socket may not be long: it is made elsewhere.
        Socket => {
            let made = outside.file.with_file_name("s");
            let _ = fs::remove_file(&made);
            UnixListener::bind(&made).and_then(|_| fs::rename(&made, path))
        }
        Device => {
            let zero = makedev(1, 5);
            mknod(path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), zero).map_err(Into::into)
        }
        LinkToFile => symlink(&outside.file, path),
        LinkToDirectory => symlink(&outside.directory, path),
        LinkToNothing => symlink(outside.directory.join("new"), path),
        HardLink => fs::hard_link(&outside.file, path),
        Directory => fs::create_dir(path),
        FullDirectory => fs::create_dir(path).and_then(|()| fs::write(path.join("file"), "")),
        HugeFile => File::create(path).and_then(|file| file.set_len(1 << 40)),
        ClosedFile => {
            File::create(path).and_then(|file| file.set_permissions(Permissions::from_mode(0o000)))
        }
        OwnFile => fs::write(path, "own"),
    };
    match planted {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => false,
        Err(error) => panic!("{plant:?} at {path:?}: {error}"),
    }
}

fn shared() -> CacheOptions {
    options().mode(0o666).max_size(1 << 20).checksums(true)
}

const OTHER: &str = "another";

fn long() -> String {
    "k".repeat(200)
}

/// The places of the cache that keys have a part in, and the others, by name.
fn places(entry: &Entry) -> BTreeMap<&'static str, PathBuf> {
    let value = entry.path().to_owned();
    let shard = value.parent().unwrap().to_owned();
    let root = shard.parent().unwrap().to_owned();
    let hash = value.file_name().unwrap().to_str().unwrap()[..40].to_owned();
    BTreeMap::from([
        ("books", root.join("books")),
        ("checksum", shard.join(format!("{hash}.sha256"))),
        ("key", shard.join(format!("{hash}.key"))),
        ("shard", shard),
        ("tmp", root.join("tmp")),
        ("value", value),
    ])
}

/// In a word.
fn outcome<T>(done: Result<T, Error>, expected: &str) -> String {
    match done {
        Ok(_) => expected.to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

#[tokio::test]
async fn what_is_planted_is_replaced_or_in_the_way_of_its_own_key() {
    if lacks(&[Need::Root]) {
        return;
    }
    let mut table = BTreeMap::<String, Vec<String>>::new();
    for name in ["books", "checksum", "key", "shard", "tmp", "value"] {
        for what in PLANTS {
            let place = Place::new();
            let outside = Outside::new(&place);
            let cache = shared().open(directory(&place)).await.unwrap();
            cache.insert(OTHER, &b"other"[..]).await.unwrap();
            let entry = cache.insert(&long(), &b"value"[..]).await.unwrap();
            let path = places(&entry)[name].clone();
            if !plant(what, &path, &outside) {
                continue;
            }
            let before = outside.look();
            let label = format!("{name}, {what:?}");
            // What can be had is right, or was put there.
            let got = in_time(cache.get(long())).await;
            let read = in_time(cache.read(long())).await;
            let words = [
                got.map(|found| found.map_or("miss", |_| "hit")),
                read.map(|found| found.map_or("miss", |_| "hit")),
            ];
            let mut row: Vec<_> = words
                .into_iter()
                .map(|word| word.map_or_else(|error| format!("{:?}", error.kind()), str::to_owned))
                .collect();
            assert_eq!(in_time(cache.read(OTHER)).await.unwrap().unwrap(), b"other", "{label}");
            in_time(cache.stats()).await.unwrap();
            in_time(cache.insert(OTHER, &b"newer"[..])).await.unwrap();
            let fill = || async { Ok::<_, io::Error>(&b"filled"[..]) };
            let filled = in_time(cache.get_or_insert_with(long(), fill)).await;
            row.push(match filled {
                Ok(entry) => String::from_utf8(in_time(entry.read()).await.unwrap()).unwrap(),
                Err(error) => error.to_string().split(':').next().unwrap().to_owned(),
            });
            assert!(plant(what, &path, &outside));
            let inserted = in_time(cache.insert(long(), &b"inserted"[..])).await;
            if let Err(error) = &inserted {
                assert_eq!(error.kind(), ErrorKind::NotAFile, "{label}: {error}");
                assert_eq!(what, FullDirectory, "{label}: {error}");
                let names_it = error.to_string().contains(&format!("`{}`", path.display()));
                assert!(names_it, "{label}: {error}");
            } else {
                assert_eq!(cache.read(long()).await.unwrap().unwrap(), b"inserted", "{label}");
            }
            row.push(outcome(inserted, "done"));
            for removal in ["remove", "prune", "clear"] {
                assert!(plant(what, &path, &outside));
                let done = match removal {
                    "remove" => in_time(cache.remove(long())).await.map(|_| ()),
                    "prune" => in_time(cache.prune()).await.map(|_| ()),
                    _ => in_time(cache.clear()).await.map(|_| ()),
                };
                row.push(outcome(done, "done"));
            }
            assert!(plant(what, &path, &outside));
            in_time(shared().open(directory(&place))).await.unwrap();
            in_time(cache.entries().next()).await.unwrap();
            in_time(cache.insert(OTHER, &b"last"[..])).await.unwrap();
            assert_eq!(cache.read(OTHER).await.unwrap().unwrap(), b"last", "{label}");
            if what != HardLink {
                assert_eq!(outside.look(), before, "{label}");
            } else {
                assert_eq!(fs::read_to_string(&outside.file).unwrap(), "secret", "{label}");
                assert_eq!(fs::metadata(&outside.file).unwrap().mode() & 0o7777, 0o644, "{label}");
            }
            assert!(!outside.directory.join("new").exists(), "{label}");
            // And all is well when it is gone.
            plant(Nothing, &path, &outside);
            in_time(cache.insert(long(), &b"again"[..])).await.unwrap();
            assert_eq!(cache.read(long()).await.unwrap().unwrap(), b"again", "{label}");
            table.insert(label, row);
        }
    }
    println!("planted: get, read, fill, insert, remove, prune, clear");
    for (label, row) in &table {
        println!("{label}: {}", row.join(", "));
    }
    for (label, row) in &table {
        let has_room = !label.contains("FullDirectory") || label.contains("tmp");
        let is_closed = label.ends_with("ClosedFile") && !geteuid().is_root();
        if has_room && !is_closed {
            assert_eq!(row[3..], ["done"; 4], "{label}");
            assert!(
                ["value", "filled", "own", "secret"].contains(&row[2].as_str()),
                "{label}: {row:?}"
            );
        }
    }
}

/// The list of what goes next, where room has to be made.
#[tokio::test]
async fn what_is_planted_as_the_list_of_what_goes_next_is_no_list() {
    for what in PLANTS {
        let place = Place::new();
        let outside = Outside::new(&place);
        let cache = options().mode(0o666).max_size(100).open(directory(&place)).await.unwrap();
        for key in 0..10 {
            cache.insert(key.to_string(), &[key; 10]).await.unwrap();
        }
        let path = cache.path().join("oldest");
        if !plant(what, &path, &outside) {
            continue;
        }
        let before = outside.look();
        let label = format!("{what:?}");
        for key in 10..15 {
            in_time(cache.insert(key.to_string(), &[key; 10])).await.unwrap();
            assert_eq!(cache.read(key.to_string()).await.unwrap().unwrap(), [key; 10], "{label}");
        }
        let stats = in_time(cache.recount()).await.unwrap();
        assert!(stats.bytes <= 100 && stats.values >= 8, "{label}: {stats:?}");
        let is_list = fs::symlink_metadata(&path).unwrap();
        assert!(is_list.is_file() || what == FullDirectory, "{label}");
        if what == HardLink {
            assert_eq!(fs::read_to_string(&outside.file).unwrap(), "secret");
        } else {
            assert_eq!(outside.look(), before, "{label}");
        }
        assert!(!outside.directory.join("new").exists(), "{label}");
        assert!(plant(what, &path, &outside));
        in_time(cache.prune()).await.unwrap();
        in_time(cache.clear()).await.unwrap();
    }
}

/// A list can say which value goes first. It cannot be so long that reading it takes long, nor say values without end that are
/// not there.
#[tokio::test]
async fn a_planted_list_of_what_goes_next_has_an_end() {
    // Bytes of the longest list, and of a line of a value that is not there.
    const LONGEST: usize = 4 << 20;
    const NOT_THERE: usize = 48;
    let lists = [
        (1, 0, true),
        (100_000, 0, false),
        (1, 200, true),
        (1, 300, false),
        (1, LONGEST / NOT_THERE - 10, false),
    ];
    for (lines, lines_of_none, is_read) in lists {
        let place = Place::new();
        let cache = options().max_size(100).open(directory(&place)).await.unwrap();
        let mut entries = Vec::new();
        for key in 0..10 {
            entries.push(cache.insert(key.to_string(), &[key; 10]).await.unwrap());
        }
        let path = entries[9].path();
        let status = fs::metadata(path).unwrap();
        let nanoseconds = |time: io::Result<SystemTime>| {
            time.unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos()
        };
        let [modified, accessed] = [status.modified(), status.accessed()].map(nanoseconds);
        let name = path.file_name().unwrap().to_str().unwrap();
        let line = format!("{modified} {} 10 {name}\n", modified.max(accessed));
        let of_none = format!("1 2 3 {}-\n", "0".repeat(40));
        assert_eq!(of_none.len(), NOT_THERE);
        let list = line.repeat(lines) + &of_none.repeat(lines_of_none);
        assert_eq!(list.len() <= LONGEST, lines == 1);
        fs::write(cache.path().join("oldest"), list).unwrap();
        in_time(cache.insert("new", &[1; 1])).await.unwrap();
        let is_gone = cache.peek("9").await.unwrap().is_none();
        assert_eq!(is_gone, is_read, "{lines}, {lines_of_none}");
    }
}

/// Another user may rename a file of ours to the name of the list.
#[tokio::test]
async fn a_file_that_becomes_the_list_of_what_goes_next_is_not_emptied() {
    let place = Place::new();
    let cache = options().max_size(100).open(directory(&place)).await.unwrap();
    for key in 0..10 {
        cache.insert(key.to_string(), &[key; 10]).await.unwrap();
    }
    let ours = place.at("ours");
    fs::write(&ours, "precious\n").unwrap();
    let open = File::open(&ours).unwrap();
    fs::rename(&ours, cache.path().join("oldest")).unwrap();
    in_time(cache.insert("new", &[1; 1])).await.unwrap();
    assert_eq!(io::read_to_string(open).unwrap(), "precious\n");
}

/// The lock files lie beside the directory: their own parent must be trusted, or the same holds.
#[tokio::test]
async fn what_is_planted_as_a_lock_file_is_an_error() {
    for what in [Fifo, Socket, Device, LinkToFile, LinkToDirectory, LinkToNothing, Directory] {
        for number in ["", ".3"] {
            let place = Place::new();
            let outside = Outside::new(&place);
            let path = place.at(&format!("cache.lock{number}"));
            if !plant(what, &path, &outside) {
                continue;
            }
            let before = outside.look();
            let error = in_time(shared().open(directory(&place))).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotAFile, "{what:?}: {error}");
            assert_eq!(error.path(), path);
            assert_eq!(outside.look(), before, "{what:?}");
            assert!(!outside.directory.join("new").exists(), "{what:?}");
        }
    }
}

/// A value of which a part has come, when everything around it is exchanged.
#[tokio::test]
async fn what_is_planted_in_the_middle_of_an_insert_is_replaced() {
    if lacks(&[Need::Root]) {
        return;
    }
    for name in ["books", "checksum", "key", "shard", "temporary file", "tmp", "value"] {
        for what in PLANTS {
            let place = Place::new();
            let outside = Outside::new(&place);
            let cache = shared().open(directory(&place)).await.unwrap();
            let entry = cache.insert(&long(), &b"value"[..]).await.unwrap();
            let (mut sender, receiver) = duplex(64 * 1024);
            let inserting = {
                let cache = cache.clone();
                tokio::spawn(async move { cache.insert(&long(), receiver).await })
            };
            // More than a chunk: a part has been written.
            let large = vec![7; 400_000];
            sender.write_all(&large).await.unwrap();
            let path = match name {
                "temporary file" => {
                    let tmp = cache.path().join("tmp");
                    let [temporary] = &names(&tmp)[..] else { panic!("one value on its way in") };
                    tmp.join(temporary)
                }
                name => places(&entry)[name].clone(),
            };
            let can_be = plant(what, &path, &outside);
            let before = outside.look();
            drop(sender);
            let inserted = in_time(inserting).await.unwrap();
            if !can_be {
                continue;
            }
            let label = format!("{name}, {what:?}");
            match inserted {
                Ok(entry) => assert!(entry.read().await.unwrap() == large, "{label}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::NotAFile, "{label}: {error}");
                    assert_eq!(what, FullDirectory, "{label}: {error}");
                }
            }
            if what != HardLink {
                assert_eq!(outside.look(), before, "{label}");
            }
            assert_eq!(fs::read_to_string(&outside.file).unwrap(), "secret", "{label}");
            assert!(!outside.directory.join("new").exists(), "{label}");
        }
    }
}

/// The places that a directory has a part in.
fn places_of_directory(dir: &Dir) -> BTreeMap<&'static str, PathBuf> {
    let generation = dir.path().to_owned();
    let directories = generation.parent().unwrap().to_owned();
    let root = directories.parent().unwrap().to_owned();
    let name = generation.file_name().unwrap().to_str().unwrap().to_owned();
    let shard = root.join(&name[..2]);
    BTreeMap::from([
        ("in the directory", generation.join("below")),
        ("directory", generation),
        ("dirs", directories),
        ("mark", root.join("tmp").join(&name)),
        ("pointer", shard.join(format!("{}.dir", &name[..40]))),
        ("shard", shard),
        ("tmp", root.join("tmp")),
    ])
}

async fn insert_dir(cache: &CacheDir, key: &str, number: u64) -> Result<Dir, Error> {
    let fill = |dir: PathBuf| async move { tree::fill(&dir, key, number) };
    cache.insert_dir(key, fill).await.map_err(of_cache)
}

fn of_cache(error: FillError<io::Error>) -> Error {
    match error {
        FillError::Cache(error) => error,
        other => panic!("not of the cache: {other:?}"),
    }
}

#[tokio::test]
async fn what_is_planted_where_directories_are_is_replaced_or_in_the_way_of_its_own_key() {
    if lacks(&[Need::Root]) {
        return;
    }
    let mut table = BTreeMap::<String, Vec<String>>::new();
    let places = ["dirs", "directory", "in the directory", "mark", "pointer", "shard", "tmp"];
    for (name, what) in places.into_iter().flat_map(|name| PLANTS.map(|what| (name, what))) {
        let place = Place::new();
        let outside = Outside::new(&place);
        let cache = shared().open(directory(&place)).await.unwrap();
        drop(insert_dir(&cache, OTHER, 1).await.unwrap());
        let dir = insert_dir(&cache, &long(), 1).await.unwrap();
        let path = places_of_directory(&dir)[name].clone();
        drop(dir);
        let planted = |what| {
            let _ = fs::create_dir_all(path.parent().unwrap());
            plant(what, &path, &outside)
        };
        if !planted(what) {
            continue;
        }
        let before = outside.look();
        let label = format!("{name}, {what:?}");
        let looked = in_time(cache.get_dir(long())).await;
        let mut row = Vec::new();
        row.push(match &looked {
            Ok(found) => found.as_ref().map_or("miss", |_| "hit").to_owned(),
            Err(error) => format!("{:?}", error.kind()),
        });
        if let Ok(Some(dir)) = looked {
            drop(in_time(dir.pin()).await.unwrap());
        }
        in_time(cache.recount()).await.unwrap();
        drop(in_time(insert_dir(&cache, OTHER, 2)).await.unwrap());
        let fill = |dir: PathBuf| async move { tree::fill(&dir, &long(), 3) };
        let filled = in_time(cache.get_or_insert_dir_with(long(), fill)).await;
        row.push(outcome(filled.map_err(of_cache), "done"));
        assert!(planted(what));
        let inserted = in_time(insert_dir(&cache, &long(), 4)).await;
        if let Err(error) = &inserted {
            assert_eq!(error.kind(), ErrorKind::NotAFile, "{label}: {error}");
            assert_eq!(what, FullDirectory, "{label}: {error}");
        }
        row.push(outcome(inserted.map(drop), "done"));
        for removal in ["remove", "prune", "clear"] {
            assert!(planted(what));
            let done = match removal {
                "remove" => in_time(cache.remove(long())).await.map(|_| ()),
                "prune" => in_time(cache.prune()).await.map(|_| ()),
                _ => in_time(cache.clear()).await.map(|_| ()),
            };
            row.push(outcome(done, "done"));
        }
        assert!(planted(what));
        in_time(shared().open(directory(&place))).await.unwrap();
        in_time(cache.entries().next()).await.unwrap();
        drop(in_time(insert_dir(&cache, OTHER, 5)).await.unwrap());
        let dir = in_time(cache.get_dir(OTHER)).await.unwrap().unwrap();
        assert_eq!(tree::number(OTHER, dir.path()), 5, "{label}");
        if what != HardLink {
            assert_eq!(outside.look(), before, "{label}");
        }
        assert_eq!(fs::read_to_string(&outside.file).unwrap(), "secret", "{label}");
        assert_eq!(fs::metadata(&outside.file).unwrap().mode() & 0o7777, 0o644, "{label}");
        assert_eq!(names(&outside.directory), ["file"], "{label}");
        // And all is well when it is gone.
        assert!(planted(Nothing));
        drop(in_time(insert_dir(&cache, &long(), 6)).await.unwrap());
        let dir = in_time(cache.get_dir(long())).await.unwrap().unwrap();
        assert_eq!(tree::number(&long(), dir.path()), 6, "{label}");
        table.insert(label, row);
    }
    println!("planted: get_dir, fill, insert_dir, remove, prune, clear");
    for (label, row) in &table {
        println!("{label}: {}", row.join(", "));
    }
    for (label, row) in &table {
        if !label.contains("FullDirectory") {
            assert_eq!(row[1..], ["done"; 5], "{label}");
        }
    }
}

/// Around a directory that is being filled, and in it. On other systems the fill goes by names.
#[cfg(all(target_os = "linux", not(tokio_filelock_posix)))]
#[tokio::test]
async fn what_is_planted_in_the_middle_of_a_fill_is_left_alone() {
    if lacks(&[Need::Root]) {
        return;
    }
    for (name, what) in
        ["dirs", "in it", "itself"].into_iter().flat_map(|name| PLANTS.map(|what| (name, what)))
    {
        let place = Place::new();
        let outside = Outside::new(&place);
        let cache = shared().open(directory(&place)).await.unwrap();
        let before = outside.look();
        let (path, planted) = (cache.path().to_owned(), AtomicBool::new(false));
        let fill = |dir: PathBuf| async {
            let dir = dir;
            tree::fill(&dir, OTHER, 1)?;
            let target = match name {
                "dirs" => path.join("dirs"),
                "in it" => dir.join("value"),
                _ => {
                    let [staged] = &tree::all(&path)[..] else { panic!("one on its way in") };
                    path.join("dirs").join(staged)
                }
            };
            planted.store(plant(what, &target, &outside), Ordering::Relaxed);
            // It goes on where it was.
            let _ = fs::write(dir.join("more"), "more");
            Ok(())
        };
        let inserted = in_time(cache.insert_dir(OTHER, fill)).await;
        if !planted.into_inner() {
            continue;
        }
        let label = format!("{name}, {what:?}: {inserted:?}");
        assert!(inserted.is_ok() || name != "in it", "{label}");
        drop(inserted.map_err(of_cache));
        if what != HardLink {
            assert_eq!(outside.look(), before, "{label}");
        }
        assert_eq!(fs::read_to_string(&outside.file).unwrap(), "secret", "{label}");
        assert_eq!(fs::metadata(&outside.file).unwrap().mode() & 0o7777, 0o644, "{label}");
        assert_eq!(names(&outside.directory), ["file"], "{label}");
        cache.clear().await.unwrap();
        assert_eq!(names(&outside.directory), ["file"], "{label}");
    }
}

/// Another user exchanges everything again and again, as fast as it can.
#[test]
fn another_user_cannot_make_the_cache_touch_anything_else() {
    if lacks(&[Need::Root]) {
        return;
    }
    let place = Place::new();
    // The other one makes things in here, and moves them in.
    fs::set_permissions(place.directory(), Permissions::from_mode(0o1777)).unwrap();
    let outside = Outside::new(&place);
    let closed = Permissions::from_mode(0o700);
    fs::set_permissions(&outside.directory, closed).unwrap();
    DirBuilder::new().mode(0o777).create(place.at("work")).unwrap();
    fs::set_permissions(place.at("work"), Permissions::from_mode(0o777)).unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let cache = runtime.block_on(shared().open(directory(&place))).unwrap();
    let entry = runtime.block_on(cache.insert(&long(), &b"value"[..])).unwrap();
    let hash = entry.path().file_name().unwrap().to_str().unwrap()[..40].to_owned();
    let before = outside.look();
    let arguments = [place.directory().to_str().unwrap(), &hash];
    let mut other = Process::in_role(Role::PlantWithoutEnd, &arguments);
    other.expect("begun");
    let counts = runtime.block_on(use_it(&cache));
    other.tell("stop");
    println!("{counts:?}; {}", other.event());
    other.finish();
    // No wait is left behind.
    drop(runtime);
    assert_eq!(outside.look(), before);
    assert_eq!(names(&outside.directory), ["file"]);
    check_modes(cache.path());
}

async fn use_it(cache: &CacheDir) -> BTreeMap<&'static str, u32> {
    let mut counts = BTreeMap::new();
    for round in 0..150_u32 {
        let value = vec![round as u8; 1000];
        let outcomes = [
            ("insert", in_time(cache.insert(&long(), &value[..])).await.err()),
            ("get", in_time(cache.get(long())).await.err()),
            ("read", in_time(cache.read(long())).await.err()),
            ("remove", in_time(cache.remove(long())).await.err()),
            ("fill", {
                let fill = || async { Ok::<_, io::Error>(&value[..]) };
                match in_time(cache.get_or_insert_with(&long(), fill)).await {
                    Err(tokio_filelock::cache::FillError::Cache(error)) => Some(error),
                    _ => None,
                }
            }),
            ("stats", in_time(cache.stats()).await.err()),
            ("insert_dir", {
                // On other systems the fill goes by names, which may lead anywhere.
                let goes_by_handle = cfg!(all(target_os = "linux", not(tokio_filelock_posix)));
                let fill = |dir: PathBuf| async move { tree::fill(&dir, "key", round.into()) };
                if goes_by_handle {
                    match in_time(cache.insert_dir(&long(), fill)).await {
                        Err(FillError::Cache(error)) => Some(error),
                        _ => None,
                    }
                } else {
                    None
                }
            }),
            (
                "get_dir and pin",
                match in_time(cache.get_dir(long())).await {
                    Ok(Some(dir)) => in_time(dir.pin()).await.err(),
                    looked => looked.err(),
                },
            ),
            ("remove a directory", in_time(cache.remove(long())).await.err()),
        ];
        for (what, error) in outcomes {
            *counts.entry(what).or_default() += 1;
            if error.is_some() {
                *counts.entry("errors among them").or_default() += 1;
            }
        }
    }
    in_time(cache.prune()).await.unwrap();
    counts
}

/// What this user has made has the mode that was asked for, and nothing else is this user's.
fn check_modes(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let metadata = path.symlink_metadata().unwrap();
        if metadata.uid() != geteuid().as_raw() {
            continue;
        }
        let mode = metadata.mode() & 0o7777;
        if metadata.is_dir() {
            assert_eq!(mode, 0o777, "{path:?}");
            // What is in directories has the modes that their fill gave, and more.
            if !path.ends_with("dirs") {
                check_modes(&path);
            }
        } else if metadata.is_file() && geteuid().is_root() {
            assert_eq!(mode, 0o666, "{path:?}");
        }
    }
}

/// The role `PlantWithoutEnd`.
pub(crate) fn plant_without_end(arguments: &[String]) {
    let [home, hash] = arguments else { panic!("two arguments") };
    become_nobody();
    let home = Path::new(home);
    let (cache, work) = (home.join("cache"), home.join("work"));
    let outside = Outside { file: home.join("secret"), directory: home.join("private") };
    let shard = cache.join(&hash[..2]);
    let value = format!("{hash}-{}", "k".repeat(96));
    let places = [
        cache.join("books"),
        cache.join("tmp"),
        cache.join("dirs"),
        cache.join("dirs/any"),
        shard.join(format!("{hash}.dir")),
        shard.join(format!("{hash}.key")),
        shard.join(format!("{hash}.sha256")),
        shard.join(value),
        shard,
    ];
    let plants = [Fifo, LinkToFile, LinkToDirectory, LinkToNothing, Directory, OwnFile, Nothing];
    let stop = AtomicBool::new(false);
    let planted = thread::scope(|scope| {
        let planting = scope.spawn(|| {
            let mut random = fastrand::Rng::new();
            let mut planted = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                let mut target = places[random.usize(..places.len())].clone();
                if target.ends_with("any") {
                    // One that is there, or on its way in or out.
                    let Ok(there) = fs::read_dir(cache.join("dirs")) else { continue };
                    let Some(Ok(any)) = there.into_iter().next() else { continue };
                    target = any.path();
                }
                let target = &target;
                // Ready made, and exchanged in one step.
                let made = work.join("made");
                clear(&made);
                let what = plants[random.usize(..plants.len())];
                if what != Nothing && !plant_quietly(what, &made, &outside) {
                    continue;
                }
                let away = work.join(format!("away{planted}"));
                let _ = fs::rename(target, &away);
                if what == Nothing || fs::rename(&made, target).is_ok() {
                    planted += 1;
                }
                clear(&away);
            }
            planted
        });
        say("begun");
        commands().next();
        stop.store(true, Ordering::Relaxed);
        planting.join().unwrap()
    });
    say(&format!("{planted} times something was planted"));
}

fn clear(path: &Path) {
    let _ = fs::remove_file(path).or_else(|_| fs::remove_dir_all(path));
}

fn plant_quietly(what: Plant, path: &Path, outside: &Outside) -> bool {
    let planted = match what {
        Fifo => mkfifo(path, Mode::from_bits_truncate(0o666)).map_err(io::Error::from),
        LinkToFile => symlink(&outside.file, path),
        LinkToDirectory => symlink(&outside.directory, path),
        LinkToNothing => symlink(outside.directory.join("new"), path),
        Directory => fs::create_dir(path)
            .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o777))),
        _ => fs::write(path, "own"),
    };
    planted.is_ok()
}
