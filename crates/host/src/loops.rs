//! Filesystems in files: a sparse file, an ext4 in it, a loop device in front of it.
//!
//! Devices are made with AUTOCLEAR: the kernel frees one when its last user (the mount, or the handle here) goes,
//! so that no crash can leave one behind.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::command::program;
use crate::error::{Result, io};

// linux/loop.h
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// How often a free device is tried when others take them at the same time.
const ATTEMPTS: u32 = 16;

/// `struct loop_info64`.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// An attached loop device; goes when this handle and all mounts of it are gone.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    _fd: OwnedFd,
}

impl LoopDevice {
    /// The block device, such as `/dev/loop3`.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes a sparse file of this size with an empty ext4 in it. An existing file is replaced.
pub fn make_ext4(file: &Path, size_bytes: u64, label: &str) -> Result<()> {
    let part = file.with_extension("part");
    let made = File::create(&part).map_err(io("create", &part))?;
    made.set_len(size_bytes).map_err(io("set the size of", &part))?;
    program("mkfs.ext4")
        .args([
            "-q",
            "-F",
            "-m",
            "0",
            "-L",
            label,
            "-E",
            "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
        ])
        .arg(&part)
        .run()?;
    fs::rename(&part, file).map_err(io("rename", &part))
}

/// Puts a loop device in front of a file.
pub fn attach(file: &Path) -> Result<LoopDevice> {
    let backing = File::options()
        .read(true)
        .write(true)
        .open(file)
        .map_err(io("open", file))?;
    let control = File::options().read(true).write(true).open("/dev/loop-control");
    let control = control.map_err(io("open", "/dev/loop-control"))?;
    let mut last = std::io::Error::from_raw_os_error(libc::EBUSY);
    for _ in 0..ATTEMPTS {
        let number = free_device(&control)?;
        match configure(number, &backing, file) {
            Ok(device) => return Ok(device),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => last = error,
            Err(error) => return Err(io("attach a loop device to", file)(error)),
        }
    }
    Err(io("attach a loop device to", file)(last))
}

fn free_device(control: &File) -> Result<i32> {
    // SAFETY: the request takes no pointer and returns the device's number.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
    if number < 0 {
        return Err(io("find a free loop device with", "/dev/loop-control")(
            std::io::Error::last_os_error(),
        ));
    }
    Ok(number)
}

fn configure(number: i32, backing: &File, file: &Path) -> std::io::Result<LoopDevice> {
    let path = PathBuf::from(format!("/dev/loop{number}"));
    ensure_node(&path, number)?;
    let device = File::options().read(true).write(true).open(&path)?;
    // SAFETY: all-zero bytes are a valid value of this plain C structure.
    let mut config: LoopConfig = unsafe { std::mem::zeroed() };
    config.fd = u32::try_from(backing.as_raw_fd()).map_err(std::io::Error::other)?;
    config.info.flags = LO_FLAGS_AUTOCLEAR;
    let name = file.as_os_str().as_encoded_bytes();
    let shown = name.len().min(63);
    config.info.file_name[..shown].copy_from_slice(&name[name.len() - shown..]);
    // SAFETY: the descriptor is open and the kernel only reads the structure during the call.
    let code = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &config) };
    if code < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(LoopDevice {
        path,
        _fd: OwnedFd::from(device),
    })
}

/// Makes the device node where no udev does.
fn ensure_node(path: &Path, number: i32) -> std::io::Result<()> {
    const LOOP_MAJOR: u32 = 7;
    if path.exists() {
        return Ok(());
    }
    let device = rustix::fs::makedev(LOOP_MAJOR, number as u32);
    let made = rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        rustix::fs::FileType::BlockDevice,
        0o600.into(),
        device,
    );
    match made {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Files that stand behind loop devices now.
pub fn attached_files() -> Vec<PathBuf> {
    let Ok(devices) = fs::read_dir("/sys/block") else {
        return Vec::new();
    };
    let backing = devices
        .flatten()
        .map(|device| device.path().join("loop/backing_file"));
    backing
        .filter_map(|path| fs::read_to_string(path).ok())
        .map(|text| PathBuf::from(text.trim_end()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_goes_with_its_last_user() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk.img");
        make_ext4(&file, 16 << 20, "test").unwrap();
        let device = attach(&file).unwrap();
        assert!(attached_files().contains(&file));
        let point = dir.path().join("mnt");
        fs::create_dir(&point).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount(device.path(), &point, "ext4", flags, c"").unwrap();
        drop(device);
        assert!(attached_files().contains(&file));
        rustix::mount::unmount(&point, rustix::mount::UnmountFlags::empty()).unwrap();
        assert!(!attached_files().contains(&file));
    }
}
