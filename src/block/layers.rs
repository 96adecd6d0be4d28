//! Disks that lie one above the other, looked at as one.

use super::{BlockDevice, ExtentKind};
use crate::error::Result;

/// Whose bytes a run of the uppermost disk shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Those of the layer with this number, counted from the uppermost, which is 0.
    Data(usize),
    /// Nobody's: zeros, as a layer says or since it ends before.
    Zero,
    /// None of any layer: what is below the last of them, else zeros.
    Nothing,
}

/// Disks one above the other, the uppermost first. Of each, what is its own is looked at alone.
#[derive(Clone)]
pub struct Layers<'a>(Vec<&'a dyn BlockDevice>);

impl std::fmt::Debug for Layers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Layers").field(&self.0.len()).finish()
    }
}

impl<'a> Layers<'a> {
    /// These, the uppermost first.
    pub fn new(layers: Vec<&'a dyn BlockDevice>) -> Self {
        Layers(layers)
    }

    /// What the run of bytes that begins at `offset` shows, and where that ends: at `end` at the
    /// latest. A layer that ends before another one above it shows zeros from there on.
    ///
    /// # Errors
    /// As [`BlockDevice::extent`].
    pub fn run(&self, offset: u64, mut end: u64) -> Result<(Shown, u64)> {
        for (number, layer) in self.0.iter().enumerate() {
            if offset >= layer.size() {
                return Ok((Shown::Zero, end));
            }
            let extent = layer.extent(offset, end.min(layer.size()))?;
            end = offset.saturating_add(extent.len);
            match extent.kind {
                ExtentKind::Data { .. } | ExtentKind::Compressed => {
                    let content = layer.content(offset, end)?;
                    let shown = if content.is_zero { Shown::Zero } else { Shown::Data(number) };
                    return Ok((shown, content.end));
                }
                ExtentKind::Zero => return Ok((Shown::Zero, end)),
                ExtentKind::Unallocated => {}
            }
        }
        Ok((Shown::Nothing, end))
    }

    /// Reads bytes that are the layer's own, as [`run`](Self::run) says.
    ///
    /// # Errors
    /// As [`BlockDevice::read_at`].
    pub fn read_at(&self, number: usize, offset: u64, buf: &mut [u8]) -> Result<()> {
        match self.0.get(number) {
            Some(layer) => layer.read_at(offset, buf),
            None => {
                buf.fill(0);
                Ok(())
            }
        }
    }
}
