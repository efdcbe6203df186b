//! Composing real images: Debian packages and self-made RPMs, each into an ostree commit.

mod node_image;
mod rpm_image;
