//! A disk whose power can be cut: a block image on a FUSE file system that logs what reaches it.
//!
//! The image lies in memory and is mounted through a loop device. The log has every write and every
//! flush in the order in which they arrived. A power cut is a moment in the log: all writes before the
//! last flush are on the disk, and of those after it any subset is, in pieces of a block.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use fastrand::Rng;
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyWrite, Request, WriteFlags,
};
use nix::mount::umount;

use crate::support::until;

const BLOCK: usize = 4096;
const IMAGE: INodeNo = INodeNo(2);
/// The kernel may keep what it has learnt: the image changes through this mount only.
const LONG: Duration = Duration::from_secs(3600);

/// A file system in an image of its own, mounted.
pub(crate) struct Disk {
    shared: Arc<Shared>,
    base: Image,
    mounted: PathBuf,
    /// Unmounts the FUSE file system when it is dropped.
    _session: BackgroundSession,
}

#[derive(Default)]
struct Shared {
    now: Mutex<Image>,
    log: Mutex<Vec<Event>>,
}

enum Event {
    Write { at: u64, data: Vec<u8> },
    Flush,
}

impl Disk {
    /// Makes a file system of this kind and mounts it, everything below the work directory. The
    /// process has a mount namespace of its own.
    pub(crate) fn new(kind: &str, work: &Path) -> Self {
        let image = work.join("made");
        // The smallest that mkfs.xfs makes.
        let size = if kind == "ext4" { 48 << 20 } else { 320 << 20 };
        File::create(&image).unwrap().set_len(size).unwrap();
        let force = if kind == "ext4" { "-F" } else { "-f" };
        run(Command::new(format!("mkfs.{kind}")).args(["-q", force]).arg(&image));
        let base = Image::read(&image);
        fs::remove_file(&image).unwrap();

        let shared = Arc::new(Shared { now: Mutex::new(base.clone()), log: Mutex::default() });
        let (served, mounted) = (work.join("disk"), work.join("mounted"));
        fs::create_dir(&served).unwrap();
        fs::create_dir(&mounted).unwrap();
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("tokio-filelock-disk".to_owned())];
        let session = fuser::spawn_mount(Server(shared.clone()), &served, &config).unwrap();
        run(Command::new("mount").args(["-o", "loop"]).arg(served.join("image")).arg(&mounted));
        Self { shared, base, mounted, _session: session }
    }

    /// Where the file system is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mounted
    }

    /// Writes what the kernel still has in memory, as it does some time.
    pub(crate) fn sync(&self) {
        nix::unistd::syncfs(File::open(&self.mounted).unwrap()).unwrap();
    }

    /// How many writes and flushes have reached the disk.
    pub(crate) fn moment(&self) -> usize {
        self.shared.log.lock().unwrap().len()
    }

    /// Ends the file system, and gives what reached the disk up to the moment.
    pub(crate) fn record(self, moment: usize) -> Recorded {
        // The cache closes what it had open on threads of its own.
        until("no file is open any more", || match umount(&self.mounted) {
            Err(nix::errno::Errno::EBUSY) => false,
            answer => answer.map(|()| true).expect("unmount"),
        });
        let mut log = std::mem::take(&mut *self.shared.log.lock().unwrap());
        log.truncate(moment);
        Recorded { durable: self.base, applied: 0, log }
    }
}

/// All that reached a disk.
pub(crate) struct Recorded {
    /// The image after the first `applied` events.
    durable: Image,
    applied: usize,
    log: Vec<Event>,
}

impl Recorded {
    pub(crate) fn moments(&self) -> usize {
        self.log.len()
    }

    /// How many flushes there were between two moments.
    pub(crate) fn flushes(&self, from: usize, to: usize) -> usize {
        self.log[from..to].iter().filter(|event| matches!(event, Event::Flush)).count()
    }

    /// Writes into the file what is on the disk when the power is cut at this moment. Moments go
    /// forward only.
    pub(crate) fn cut(&mut self, moment: usize, random: &mut Rng, file: &Path) {
        let is_flush = |event: &Event| matches!(event, Event::Flush);
        let flushed = self.log[..moment].iter().rposition(is_flush).unwrap_or(0);
        assert!(flushed >= self.applied || self.applied == 0, "moments go forward");
        for event in &self.log[self.applied.min(flushed)..flushed] {
            if let Event::Write { at, data } = event {
                self.durable.write(*at, data);
            }
        }
        self.applied = self.applied.max(flushed);
        let mut image = self.durable.clone();
        // All, none, or each with some probability.
        let kept = [0, 10, 50, 90, 100][random.usize(..5)];
        for event in &self.log[flushed..moment] {
            let Event::Write { at, data } = event else { continue };
            for (number, block) in data.chunks(BLOCK).enumerate() {
                if random.usize(..100) < kept {
                    image.write(at + (number * BLOCK) as u64, block);
                }
            }
        }
        image.save(file);
    }
}

/// Mounts an image file as the machine would after a power cut, and unmounts it when dropped.
pub(crate) struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    pub(crate) fn new(image: &Path, at: &'a Path) -> Self {
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(at));
        Self(at)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0).status();
        if !std::thread::panicking() {
            assert!(unmounted.unwrap().success());
        }
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {said}", output.status);
}

/// The content of a disk: the blocks that are not zero.
#[derive(Default, Clone)]
struct Image {
    blocks: HashMap<u64, Box<[u8]>>,
    length: u64,
}

impl Image {
    fn read(file: &Path) -> Self {
        let content = fs::read(file).unwrap();
        let mut image = Self { blocks: HashMap::new(), length: content.len() as u64 };
        for (number, block) in content.chunks(BLOCK).enumerate() {
            if block.iter().any(|&byte| byte != 0) {
                image.blocks.insert(number as u64, block.into());
            }
        }
        image
    }

    fn write(&mut self, at: u64, mut data: &[u8]) {
        let (mut number, mut offset) = (at / BLOCK as u64, at as usize % BLOCK);
        while !data.is_empty() {
            let (now, later) = data.split_at(data.len().min(BLOCK - offset));
            let block = self.blocks.entry(number).or_insert_with(|| vec![0; BLOCK].into());
            block[offset..offset + now.len()].copy_from_slice(now);
            (number, offset, data) = (number + 1, 0, later);
        }
    }

    fn load(&self, at: u64, length: usize) -> Vec<u8> {
        let end = self.length.min(at.saturating_add(length as u64));
        let mut data = Vec::with_capacity(length);
        let mut at = at;
        while at < end {
            let offset = at as usize % BLOCK;
            let count = (end - at).min((BLOCK - offset) as u64) as usize;
            match self.blocks.get(&(at / BLOCK as u64)) {
                Some(block) => data.extend_from_slice(&block[offset..offset + count]),
                None => data.resize(data.len() + count, 0),
            }
            at += count as u64;
        }
        data
    }

    fn save(&self, path: &Path) {
        let file = File::create(path).unwrap();
        file.set_len(self.length).unwrap();
        for (number, block) in &self.blocks {
            file.write_all_at(block, number * BLOCK as u64).unwrap();
        }
    }
}

struct Server(Arc<Shared>);

impl Server {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let is_image = inode == IMAGE;
        let size = if is_image { self.0.now.lock().unwrap().length } else { 0 };
        FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_image { FileType::RegularFile } else { FileType::Directory },
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: BLOCK as u32,
        }
    }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == "image" {
            reply.entry(&LONG, &self.attributes(IMAGE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&LONG, &self.attributes(inode));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        reply.data(&self.0.now.lock().unwrap().load(offset, size as usize));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.0.now.lock().unwrap().write(offset, data);
        let event = Event::Write { at: offset, data: data.to_vec() };
        self.0.log.lock().unwrap().push(event);
        reply.written(data.len() as u32);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.0.log.lock().unwrap().push(Event::Flush);
        reply.ok();
    }
}

/// Makes a tmpfs of the directory, so that images are written fast. In a mount namespace of its own.
pub(crate) fn in_memory(directory: &Path) {
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(directory));
}
