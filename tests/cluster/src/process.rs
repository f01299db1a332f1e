//! Child processes that never outlive this one, not even when it is killed by SIGKILL.
//!
//! A [`Family`] is a process group with two small shells, each reading a pipe that nobody ever
//! writes to; all they wait for is its end, which the kernel brings about however this process
//! ends:
//!
//! - The *guard* leads the group. Its pipe is held by this process alone. When that closes, the
//!   guard kills its group, itself included. No process id is remembered, so no stranger can
//!   be hit: as long as the guard lives, the group is ours.
//! - The *sweeper* removes the family's folder. Its pipe is held by this process and, as their
//!   standard input, by every process of the family. It therefore ends when the last of them
//!   is gone, and nothing can be written into the folder afterwards.
//!
//! A real node leaves more behind than processes of the group and a folder. Its containers are in
//! a PID namespace whose process 1 is in the group, so the kernel kills them with it; the sweeper
//! of such a family ([`Family::with_node`]) removes their cgroups, waits for the network
//! interface, which goes with its namespace, and then removes the folder.
//!
//! Both are in groups of their own, so that Ctrl-C on a terminal does not reach them.
//! Ending a family by [`Family::end`], by dropping it or by the death of this process is one and
//! the same thing: the pipe closes. There is no SIGTERM first, as nothing the family writes is
//! ever read again.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{PipeWriter, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, ensure};

/// Ends by killing its process group, once its standard input is closed.
const GUARD: &str = "while read -r _; do :; done; kill -KILL 0";
/// Ends by removing a folder, once its standard input is closed.
const SWEEPER: &str = r#"while read -r _; do :; done; exec rm -rf -- "$1""#;
/// As [`SWEEPER`], for a node of the name `$2`. A cgroup can be removed when it has no process any
/// more, so the folder is removed when nobody can write into it. Mounts are not seen from here,
/// they are in a namespace of their own; so nothing but the folder can be hit.
const NODE_SWEEPER: &str = r#"
while read -r _; do :; done
swept() {
    left=0
    for cgroup in "/sys/fs/cgroup/$2" /sys/fs/cgroup/*/"$2"; do
        [ ! -d "$cgroup" ] || find "$cgroup" -depth -type d -exec rmdir -- {} + || left=1
    done
    [ ! -e "/sys/class/net/$2" ] || left=1
    [ "$left" = 0 ] && rm -rf -- "$1"
}
looks=0
until swept "$@"; do
    looks=$((looks + 1))
    [ "$looks" -lt 1200 ] || exit 1
    sleep 0.05
done"#;
/// How many lines of a log are worth showing.
const TAIL: usize = 20;

/// Processes that end together, and the folder that goes with them.
#[derive(Debug)]
pub struct Family {
    group: i32,
    guard: Child,
    guard_pipe: Option<PipeWriter>,
    sweeper: Child,
    sweeper_pipe: Option<PipeWriter>,
    telling: Arc<AtomicBool>,
    waiters: Mutex<Vec<JoinHandle<()>>>,
}

/// A process of a family.
#[derive(Clone, Debug)]
pub struct Process {
    name: String,
    id: u32,
    log: PathBuf,
    ended: Arc<OnceLock<String>>,
    succeeded: Arc<OnceLock<bool>>,
}

impl Family {
    /// Starts an empty family that removes `folder` at its end.
    pub fn new(folder: &Path) -> Result<Self> {
        Self::swept_by(SWEEPER, &[folder.as_os_str()])
    }

    /// Starts an empty family that removes `folder` at its end, and before it the cgroups `name`
    /// in every hierarchy. It also waits for the network interface `name` to go.
    pub(crate) fn with_node(folder: &Path, name: &str) -> Result<Self> {
        Self::swept_by(NODE_SWEEPER, &[folder.as_os_str(), name.as_ref()])
    }

    fn swept_by(script: &str, arguments: &[&OsStr]) -> Result<Self> {
        let (reader, sweeper_pipe) = std::io::pipe().context("opening a pipe")?;
        let sweeper = shell(script, arguments, reader.into())?;
        let (reader, guard_pipe) = std::io::pipe().context("opening a pipe")?;
        let guard = shell(GUARD, &[], reader.into())?;
        let group = i32::try_from(guard.id()).context("a process id that is no group id")?;
        Ok(Self {
            group,
            guard,
            guard_pipe: Some(guard_pipe),
            sweeper,
            sweeper_pipe: Some(sweeper_pipe),
            telling: Arc::default(),
            waiters: Mutex::default(),
        })
    }

    /// Starts a process that writes to the file `log`. Standard input is taken.
    ///
    /// `lasting` says that it is meant to live as long as the family; see [`Self::tell_of_ends`].
    pub fn start(
        &self,
        name: &str,
        mut command: Command,
        log: &Path,
        lasting: bool,
    ) -> Result<Process> {
        let pipe = self.sweeper_pipe.as_ref().context("the family has ended")?;
        let pipe = pipe
            .try_clone()
            .with_context(|| format!("copying a pipe for {name}"))?;
        let file = File::create(log)
            .with_context(|| format!("creating the log file {}", log.display()))?;
        let also = file
            .try_clone()
            .with_context(|| format!("opening {} twice", log.display()))?;
        let mut child = command
            .stdin(pipe)
            .stdout(file)
            .stderr(also)
            .process_group(self.group)
            .spawn()
            .with_context(|| format!("starting {name} ({})", command.get_program().display()))?;
        let process = Process {
            name: name.to_owned(),
            id: child.id(),
            log: log.to_owned(),
            ended: Arc::default(),
            succeeded: Arc::default(),
        };
        let (noted, telling) = (process.clone(), Arc::clone(&self.telling));
        let waiter = std::thread::Builder::new()
            .name(format!("wait for {name}"))
            .spawn(move || {
                let status = child.wait();
                noted.note(status);
                if lasting
                    && telling.load(Ordering::SeqCst)
                    && let Err(error) = noted.alive()
                {
                    eprintln!("{error:#}");
                }
            })
            .with_context(|| format!("starting a thread that waits for {name}"))?;
        self.waiters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(waiter);
        Ok(process)
    }

    /// From now on the end of a lasting process is told on standard error, with the last lines
    /// of its log. Before, whoever starts the family looks after it.
    pub fn tell_of_ends(&self) {
        self.telling.store(true, Ordering::SeqCst);
    }

    /// Kills every process of the family and removes its folder. Returns when all is gone.
    pub fn end(&mut self) -> Result<()> {
        self.telling.store(false, Ordering::SeqCst);
        // The guard gets its end of file here, and kills.
        self.guard_pipe = None;
        self.guard
            .wait()
            .context("waiting for the guard of the processes")?;
        let waiters = self
            .waiters
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for waiter in waiters.drain(..) {
            waiter
                .join()
                .map_err(|_| anyhow!("a thread that waited for a process panicked"))?;
        }
        self.sweeper_pipe = None;
        let status = self
            .sweeper
            .wait()
            .context("waiting for the folder to be removed")?;
        ensure!(
            status.success(),
            "the folder of the processes could not be removed ({status})"
        );
        Ok(())
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        if self.guard_pipe.is_some()
            && let Err(error) = self.end()
        {
            eprintln!("ending processes: {error:#}");
        }
    }
}

impl Process {
    fn note(&self, status: std::io::Result<ExitStatus>) {
        let (text, success) = match status {
            Ok(status) => (status.to_string(), status.success()),
            Err(error) => (format!("unknown end: {error}"), false),
        };
        // Each is set once, here.
        let _ = self.succeeded.set(success);
        let _ = self.ended.set(text);
    }

    /// Whether it ended well; `None` while it runs.
    pub fn success(&self) -> Option<bool> {
        self.ended.get().and_then(|_| self.succeeded.get().copied())
    }

    /// An error with the last lines of the log if the process has ended.
    pub fn alive(&self) -> Result<()> {
        match self.ended.get() {
            None => Ok(()),
            Some(status) => Err(anyhow!(
                "{} ended ({status}); the last lines of {}:\n{}",
                self.name,
                self.log.display(),
                tail(&self.log)
            )),
        }
    }

    /// Sends it a signal, such as `TERM` or `KILL`.
    pub fn signal(&self, signal: &str) -> Result<()> {
        self.alive().context("a signal came too late")?;
        // The shell's own kill, as this crate has no unsafe code and the program may be missing.
        let status = Command::new("sh")
            .args(["-c", r#"kill -s "$1" "$2""#, "sh", signal])
            .arg(self.id.to_string())
            .status()
            .context("starting sh to send a signal")?;
        ensure!(
            status.success(),
            "sending {signal} to {} failed ({status})",
            self.name
        );
        Ok(())
    }

    /// How it ended, as in `exit status: 1`; `None` while it runs.
    pub fn end(&self) -> Option<&str> {
        self.ended.get().map(String::as_str)
    }

    /// What it was started as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The file its output goes to.
    pub fn log(&self) -> &Path {
        &self.log
    }
}

/// A shell that waits for the end of its standard input.
fn shell(script: &str, arguments: &[&OsStr], input: Stdio) -> Result<Child> {
    Command::new("sh")
        .args(["-c", script, "sh"])
        .args(arguments)
        // Not the test's folder, which may be removed, nor the test's output, which a reader
        // may want to see the end of.
        .current_dir("/")
        .stdin(input)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("starting sh, which guards the child processes")
}

/// The last lines of a file, for people; never an error.
pub(crate) fn tail(path: &Path) -> String {
    /// More than [`TAIL`] lines ever need; a log may be huge.
    const ENOUGH: u64 = 64 * 1024;
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(ENOUGH);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Err(error) => format!("(cannot be read: {error})"),
        Ok(text) if text.trim().is_empty() => "(empty)".to_owned(),
        Ok(text) => {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(TAIL)..].join("\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::wait::eventually;

    const LIMIT: Duration = Duration::from_mins(1);

    fn folder() -> PathBuf {
        tempfile::Builder::new()
            .prefix("cluster-process-")
            .tempdir()
            .unwrap()
            .keep()
    }

    fn sleeper() -> Command {
        // A grandchild too, that ignores what can be ignored.
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM HUP INT; sleep 1000 & sleep 1000"]);
        command
    }

    #[test]
    fn ending_kills_everything_and_removes_the_folder() {
        let folder = folder();
        let mut family = Family::new(&folder).unwrap();
        let process = family
            .start("sleeper", sleeper(), &folder.join("log"), true)
            .unwrap();
        process.alive().unwrap();
        family.end().unwrap();
        assert!(process.alive().is_err());
        assert!(!folder.exists());
    }

    #[test]
    fn dropping_is_ending() {
        let folder = folder();
        let family = Family::new(&folder).unwrap();
        family
            .start("sleeper", sleeper(), &folder.join("log"), true)
            .unwrap();
        drop(family);
        assert!(!folder.exists());
    }

    #[tokio::test]
    async fn an_early_end_is_told_with_the_log() {
        let folder = folder();
        let family = Family::new(&folder).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such luck; exit 3"]);
        let process = family
            .start("thing", command, &folder.join("thing.log"), false)
            .unwrap();
        let message = eventually("the end", LIMIT, || async { Ok(process.alive().err()) })
            .await
            .unwrap();
        let message = message.to_string();
        assert!(
            message.starts_with("thing ended (exit status: 3)"),
            "{message}"
        );
        assert!(message.ends_with("no such luck"), "{message}");
        assert_eq!(process.success(), Some(false));
    }

    #[test]
    fn a_missing_program_is_named() {
        let folder = folder();
        let family = Family::new(&folder).unwrap();
        let error = family
            .start(
                "etcd",
                Command::new("/nowhere/etcd"),
                &folder.join("log"),
                true,
            )
            .unwrap_err();
        assert!(
            format!("{error:#}").starts_with("starting etcd (/nowhere/etcd)"),
            "{error:#}"
        );
    }

    /// Not a test: what the next one runs and kills.
    #[test]
    #[ignore = "run by the test a_killed_parent_leaves_nothing"]
    fn parent_to_be_killed() {
        let folder = PathBuf::from(std::env::var("CLUSTER_TEST_FOLDER").unwrap());
        let family = Family::new(&folder).unwrap();
        let mut command = sleeper();
        command.arg(&folder); // so that the command line can be found
        family
            .start("sleeper", command, &folder.join("log"), true)
            .unwrap();
        std::fs::write(folder.join("started"), "").unwrap();
        loop {
            std::thread::park();
        }
    }

    #[tokio::test]
    async fn a_killed_parent_leaves_nothing() {
        let folder = folder();
        let mut parent = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "process::tests::parent_to_be_killed",
                "--ignored",
            ])
            .env("CLUSTER_TEST_FOLDER", &folder)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the parent's child", LIMIT, || async {
            Ok(folder.join("started").exists().then_some(()))
        })
        .await
        .unwrap();
        assert!(!mentioning(&folder).is_empty());
        parent.kill().unwrap();
        parent.wait().unwrap();
        eventually("no process and no folder", LIMIT, || async {
            let left = mentioning(&folder);
            anyhow::ensure!(left.is_empty(), "{left:?}");
            Ok((!folder.exists()).then_some(()))
        })
        .await
        .unwrap();
    }

    /// Command lines of living processes that mention the folder.
    fn mentioning(folder: &Path) -> Vec<String> {
        let processes = std::fs::read_dir("/proc").unwrap();
        let lines =
            processes.filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok());
        lines
            .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
            .filter(|line| line.contains(&*folder.to_string_lossy()))
            .collect()
    }
}
