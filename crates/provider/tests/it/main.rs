//! Real machines on this computer, from a composed image. Needs root, like the product.

mod machines;
mod world;
