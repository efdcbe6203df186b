//! Container images made here, so that a node works without any registry: OCI layouts as tar archives, written by
//! our own hand (image-spec 1.0: `oci-layout`, `index.json`, `blobs/sha256/*`).

mod tar;

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use mainstay_host::command::program;
use serde_json::{Value, json};

use crate::agent::PAUSE_IMAGE;
use crate::error::{Error, Result, host, io};
use crate::{digest, snapshot};
use tar::Tar;

/// Names of the test image: our own, and one that existing manifests use.
pub const BUSYBOX_IMAGES: &[&str] = &["mainstay.local/busybox:1", "docker.io/library/busybox:1.35"];

/// A container image of one layer.
#[derive(Debug)]
struct Image {
    names: Vec<String>,
    layer: Tar,
    command: Vec<String>,
}

/// Version of what [`make`] writes: raised when the images' content changes.
const FORMAT: u32 = 1;

/// Makes the archives from a static busybox: the sandbox's pause image and a small image with a shell. Archives that
/// were made from this busybox before stay.
pub fn make(busybox: &Path, folder: &Path) -> Result<Vec<PathBuf>> {
    let source = digest::of_files(&[busybox])?.concat();
    let (marker, made) = (folder.join("made-from"), format!("{FORMAT} {source}"));
    let archives: Vec<PathBuf> = ["pause", "busybox"]
        .iter()
        .map(|name| folder.join(format!("{name}.tar")))
        .collect();
    let current = std::fs::read_to_string(&marker).is_ok_and(|present| present == made);
    if !current || !archives.iter().all(|path| path.exists()) {
        write_archives(busybox, folder, &archives)?;
        snapshot::write(&marker, made.as_bytes())?;
    }
    Ok(archives)
}

fn write_archives(busybox: &Path, folder: &Path, archives: &[PathBuf]) -> Result<()> {
    let binary = std::fs::read(busybox).map_err(io("read", busybox))?;
    let applets = program(busybox)
        .arg("--list")
        .run()
        .map_err(host("list the applets of busybox"))?;
    let applets: Vec<&str> = applets.lines().filter(|name| *name != "busybox").collect();
    std::fs::create_dir_all(folder).map_err(io("create", folder))?;
    for (path, image) in archives.iter().zip([pause(&binary), shell(&binary, &applets)]) {
        snapshot::write(path, &image.archive()?)?;
    }
    Ok(())
}

fn pause(busybox: &[u8]) -> Image {
    let mut layer = Tar::default();
    layer.folder("bin");
    layer.file("bin/sleep", 0o755, busybox);
    Image {
        names: vec![PAUSE_IMAGE.to_owned()],
        layer,
        command: vec!["/bin/sleep".to_owned(), "inf".to_owned()],
    }
}

fn shell(busybox: &[u8], applets: &[&str]) -> Image {
    let mut layer = Tar::default();
    for folder in ["bin", "etc", "root", "tmp", "var", "var/www"] {
        layer.folder(folder);
    }
    layer.file("bin/busybox", 0o755, busybox);
    for applet in applets {
        layer.link(&format!("bin/{applet}"), "busybox");
    }
    layer.file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    );
    layer.file("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n");
    Image {
        names: BUSYBOX_IMAGES.iter().map(|name| (*name).to_owned()).collect(),
        layer,
        command: vec!["/bin/sh".to_owned()],
    }
}

impl Image {
    /// The whole OCI layout as one tar archive. The same image gives the same bytes.
    fn archive(self) -> Result<Vec<u8>> {
        let layer = self.layer.finish();
        let compressed = gzip(&layer)?;
        let config = bytes(&json!({
            "architecture": if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" },
            "os": "linux",
            "config": { "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": self.command },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", digest::of_bytes(&layer))] },
        }));
        let manifest = bytes(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &compressed)],
        }));
        let manifests: Vec<Value> = self.names.iter().map(|name| named(&manifest, name)).collect();
        let index = bytes(&json!({ "schemaVersion": 2, "manifests": manifests }));

        let mut archive = Tar::default();
        archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
        archive.file("index.json", 0o644, &index);
        archive.folder("blobs");
        archive.folder("blobs/sha256");
        for blob in [&config, &manifest, &compressed] {
            archive.file(&format!("blobs/sha256/{}", digest::of_bytes(blob)), 0o644, blob);
        }
        Ok(archive.finish())
    }
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": format!("sha256:{}", digest::of_bytes(blob)), "size": blob.len() })
}

/// The manifest's descriptor under the name that containerd gives the image.
fn named(manifest: &[u8], name: &str) -> Value {
    let mut value = descriptor("application/vnd.oci.image.manifest.v1+json", manifest);
    let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    value["annotations"] =
        json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag });
    value
}

fn gzip(data: &[u8]) -> Result<Vec<u8>> {
    let broken = |error: std::io::Error| Error::Answer {
        program: "gzip",
        message: error.to_string(),
    };
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).map_err(broken)?;
    encoder.finish().map_err(broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_repeatable_and_readable() {
        let dir = tempfile::tempdir().unwrap();
        let busybox = mainstay_host::command::find("busybox").expect("busybox-static is a set-up package");
        let archives = make(&busybox, dir.path()).unwrap();
        let before: Vec<_> = archives.iter().map(|path| std::fs::read(path).unwrap()).collect();
        make(&busybox, dir.path()).unwrap();
        assert_eq!(
            before,
            archives
                .iter()
                .map(|path| std::fs::read(path).unwrap())
                .collect::<Vec<_>>()
        );

        let listed = program("tar").arg("-tf").arg(&archives[1]).run().unwrap();
        assert!(
            listed.starts_with("oci-layout\nindex.json\nblobs/\nblobs/sha256/\n"),
            "{listed}"
        );
        let index = program("tar")
            .args(["-xOf"])
            .arg(&archives[1])
            .arg("index.json")
            .run()
            .unwrap();
        assert!(index.contains("docker.io/library/busybox:1.35"));
    }
}
