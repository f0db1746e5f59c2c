//! A process that uses the cache on command.

use std::convert::Infallible;
use std::future::pending;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio_filelock::CacheDir;
use tokio_filelock::cache::{Dir, Entry, FillError, Pin};

use super::{options, tree, value};
use crate::child::Role;
use crate::support::locker::become_nobody;
use crate::support::process::{Process, commands, say};

const PIPE: usize = 64 * 1024;

/// The parent's side.
pub(crate) struct User {
    process: Process,
}

impl User {
    /// A process that has opened the directory.
    #[track_caller]
    pub(crate) fn of(directory: &Path, max_size: u64) -> Self {
        let arguments = [directory.to_str().unwrap(), &max_size.to_string()];
        let process = Process::in_role(Role::UseACache, &arguments);
        process.expect("open");
        Self { process }
    }

    /// The answer to a command.
    #[track_caller]
    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.start(command);
        self.answer()
    }

    pub(crate) fn start(&mut self, command: &str) {
        self.process.tell(command);
    }

    #[track_caller]
    pub(crate) fn answer(&self) -> String {
        self.process.event()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn kill(self) {
        self.process.kill();
    }

    #[track_caller]
    pub(crate) fn finish(self) {
        self.process.finish();
    }
}

/// The role `UseACache`.
pub(crate) fn serve(arguments: &[String]) {
    let [directory, max_size] = arguments else { panic!("two arguments") };
    let max_size: u64 = max_size.parse().unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let cache = runtime.block_on(options().max_size(max_size).open(directory)).unwrap();
    let mut server = Server { cache, stalled: None, pin: None };
    say("open");
    for command in commands() {
        let words: Vec<_> = command.split(' ').collect();
        say(&runtime.block_on(server.answer(&words)));
    }
}

struct Server {
    cache: CacheDir,
    /// A fill that was begun: where the rest of the value goes, and the rest.
    stalled: Option<(DuplexStream, Vec<u8>, JoinHandle<Entry>)>,
    /// A directory that is pinned, and its key.
    pin: Option<(String, Pin)>,
}

impl Server {
    async fn answer(&mut self, words: &[&str]) -> String {
        let cache = self.cache.clone();
        match *words {
            ["get", key] => match cache.get(key).await.unwrap() {
                Some(entry) => number(key, entry).await,
                None => "none".into(),
            },
            ["read", key] => match cache.read(key).await.unwrap() {
                Some(bytes) => value::number(key, &bytes).to_string(),
                None => "none".into(),
            },
            ["insert", key, number] => {
                let bytes = value::of(key, number.parse().unwrap());
                cache.insert(key, &bytes[..]).await.unwrap();
                "inserted".into()
            }
            ["fill", key, new] => {
                let bytes = value::of(key, new.parse().unwrap());
                let fill = || async { Ok::<_, Infallible>(&bytes[..]) };
                number(key, cache.get_or_insert_with(key, fill).await.unwrap()).await
            }
            ["fail", key] => {
                let fill = || async { Err::<&[u8], _>("failed") };
                match cache.get_or_insert_with(key, fill).await {
                    Ok(entry) => number(key, entry).await,
                    Err(FillError::Fill(error)) => error.into(),
                    Err(error) => error.to_string(),
                }
            }
            // Fills for ever.
            ["hang", key] => {
                let fill = || async {
                    say("filling");
                    pending::<Result<&[u8], Infallible>>().await
                };
                number(key, cache.get_or_insert_with(key, fill).await.unwrap()).await
            }
            // Fills with a large value, of which half is in a temporary file.
            ["stall", key, number] => {
                let bytes = value::of(key, number.parse().unwrap());
                let (mut sender, receiver) = duplex(PIPE);
                let (filled, owned) = (cache.clone(), key.to_owned());
                let filling = tokio::spawn(async move {
                    let fill = || async { Ok::<_, Infallible>(receiver) };
                    filled.get_or_insert_with(owned, fill).await.unwrap()
                });
                // Half of it is more than a chunk and a pipe: a part has been written.
                let (half, rest) = bytes.split_at(bytes.len() / 2);
                sender.write_all(half).await.unwrap();
                self.stalled = Some((sender, rest.to_owned(), filling));
                "stalled".into()
            }
            ["resume", key] => {
                let (mut sender, rest, filling) = self.stalled.take().unwrap();
                sender.write_all(&rest).await.unwrap();
                drop(sender);
                number(key, filling.await.unwrap()).await
            }
            ["cancel"] => {
                let (_sender, _, filling) = self.stalled.take().unwrap();
                filling.abort();
                assert!(filling.await.unwrap_err().is_cancelled());
                "cancelled".into()
            }
            ["get-dir", key] => match cache.get_dir(key).await.unwrap() {
                Some(dir) => number_in(key, &dir).await,
                None => "none".into(),
            },
            ["insert-dir", key, number] => {
                let number = number.parse().unwrap();
                let fill = |dir: PathBuf| async move { tree::fill(&dir, key, number) };
                number_in(key, &cache.insert_dir(key, fill).await.unwrap()).await
            }
            ["fill-dir", key, new] => {
                let new = new.parse().unwrap();
                let fill = |dir: PathBuf| async move { tree::fill(&dir, key, new) };
                number_in(key, &cache.get_or_insert_dir_with(key, fill).await.unwrap()).await
            }
            ["fail-dir", key, new] => {
                let new = new.parse().unwrap();
                let fill = |dir: PathBuf| async move {
                    tree::fill(&dir, key, new).unwrap();
                    Err("failed")
                };
                match cache.get_or_insert_dir_with(key, fill).await {
                    Ok(dir) => number_in(key, &dir).await,
                    Err(FillError::Fill(error)) => error.into(),
                    Err(error) => error.to_string(),
                }
            }
            // Fills for ever; says where.
            ["hang-dir", key, new] => {
                let new = new.parse().unwrap();
                let fill = |dir: PathBuf| async move {
                    tree::fill(&dir, key, new).unwrap();
                    say(&format!("filling {}", dir.display()));
                    pending::<Result<(), Infallible>>().await
                };
                number_in(key, &cache.get_or_insert_dir_with(key, fill).await.unwrap()).await
            }
            ["pin", key] => match cache.get_dir(key).await.unwrap() {
                Some(dir) => match dir.pin().await {
                    Ok(Some(pin)) => {
                        let path = pin.path().display().to_string();
                        self.pin = Some((key.to_owned(), pin));
                        path
                    }
                    Ok(None) => "gone".into(),
                    Err(error) => error.to_string(),
                },
                None => "none".into(),
            },
            // What is in the directory that is pinned.
            ["pinned"] => {
                let (key, pin) = self.pin.as_ref().unwrap();
                tree::number(key, pin.path()).to_string()
            }
            ["unpin"] => {
                self.pin = None;
                "unpinned".into()
            }
            ["remove", key] => cache.remove(key).await.unwrap().to_string(),
            ["clear"] => cache.clear().await.unwrap().values.to_string(),
            ["prune"] => cache.prune().await.unwrap().values.to_string(),
            ["list"] => {
                let mut entries = cache.entries();
                let mut keys = Vec::new();
                while let Some(listed) = entries.next().await.unwrap() {
                    keys.push(String::from_utf8(listed.key).unwrap());
                }
                keys.sort();
                keys.join(" ")
            }
            ["nobody"] => {
                become_nobody();
                "nobody".into()
            }
            _ => panic!("no command: {words:?}"),
        }
    }
}

async fn number(key: &str, entry: Entry) -> String {
    let length = entry.len();
    let bytes = entry.read().await.unwrap();
    assert_eq!(bytes.len() as u64, length);
    value::number(key, &bytes).to_string()
}

/// Of a directory that may be exchanged, but is not while it is pinned.
async fn number_in(key: &str, dir: &Dir) -> String {
    let pin = dir.pin().await.unwrap().expect("no other process is at it");
    let number = tree::number(key, pin.path());
    assert_eq!(dir.bytes(), tree::bytes(key, number));
    number.to_string()
}
