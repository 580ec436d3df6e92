//! Running other programs: one place that names the program and shows what it said when it fails.
//!
//! Must not know what the programs are for.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The account that servers and agents run under.
pub const SERVER_USER: &str = "postgres";

/// The search path of everything that is started; nothing else of the caller's environment is
/// passed on, so that a stray `PGHOST` or `PGAA_SOCKET` can't change what is tested.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command with a clean environment.
#[must_use]
pub fn clean(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C.UTF-8")
        .current_dir("/");
    command.stdin(Stdio::null());
    command
}

/// A command that runs as the account of the servers. It ends with the thread that started it:
/// a test that is killed leaves nothing behind.
#[must_use]
pub fn as_server(program: impl AsRef<OsStr>) -> Command {
    let mut command = clean("setpriv");
    drop_privileges(&mut command);
    command.arg(program);
    command
}

/// The same inside a network namespace. `ip netns exec` and `setpriv` replace themselves, so the
/// child's process id is the program's own.
#[must_use]
pub fn as_server_in(namespace: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = clean("ip");
    command.args(["netns", "exec", namespace, "setpriv"]);
    drop_privileges(&mut command);
    command.arg(program);
    command
}

fn drop_privileges(command: &mut Command) {
    command
        .arg(format!("--reuid={SERVER_USER}"))
        .arg(format!("--regid={SERVER_USER}"));
    command.args(["--init-groups", "--pdeathsig=KILL", "--"]);
}

/// Runs a command to its end; its standard output when it succeeded.
pub fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        bail!("{}", failure(command, &output));
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned())
}

/// Runs a command to its end, whatever its exit code.
pub fn output(command: &mut Command) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.output().with_context(|| {
        format!("{name} can't be started; `make test` installs what the tests need")
    })
}

/// What a failed command was and what it said.
#[must_use]
pub fn failure(command: &Command, output: &Output) -> String {
    format!(
        "{command:?} ended with {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Runs a program with arguments.
pub fn call(program: &str, arguments: &[&str]) -> Result<String> {
    run(clean(program).args(arguments))
}

/// Makes a directory that belongs to the account of the servers.
pub fn server_directory(path: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("{} can't be made", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    give_to_server(path)
}

/// Writes a file that belongs to the account of the servers.
pub fn server_file(path: &Path, text: &str, mode: u32) -> Result<()> {
    fs::write(path, text).with_context(|| format!("{} can't be written", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    give_to_server(path)
}

fn give_to_server(path: &Path) -> Result<()> {
    let user = nix::unistd::User::from_name(SERVER_USER)?
        .with_context(|| format!("there is no account {SERVER_USER}: install postgresql-15"))?;
    chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
        .with_context(|| format!("{} can't be given to {SERVER_USER}", path.display()))
}

/// A log file, opened for appending; readable by everybody.
pub fn log_file(path: &Path) -> Result<File> {
    File::options()
        .append(true)
        .create(true)
        .open(path)
        .with_context(|| format!("{} can't be opened", path.display()))
}

/// The last lines of a file, or why there are none.
#[must_use]
pub fn tail(path: &Path, lines_max: usize) -> String {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => return format!("({}: {error})", path.display()),
    };
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(lines_max)..].join("\n")
}
