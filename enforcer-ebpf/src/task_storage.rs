//! Task storage, the map type that `aya-ebpf` 0.2 lacks.

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_LOCAL_STORAGE_GET_F_CREATE, bpf_map_type, task_struct},
    helpers::generated::bpf_task_storage_get,
};
use core::ptr;

/// A BTF map definition: a struct of pointers whose *types* carry the numbers. The names and the order of the
/// fields are what the loader reads.
#[repr(C)]
pub(crate) struct TaskStorage<T> {
    r#type: *const [i32; bpf_map_type::BPF_MAP_TYPE_TASK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; BPF_F_NO_PREALLOC as usize],
}

// SAFETY: the fields are placeholders that the loader replaces by the map; nothing reads them.
unsafe impl<T> Sync for TaskStorage<T> {}

impl<T> TaskStorage<T> {
    pub(crate) const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }

    /// The value of a task, or null.
    ///
    /// # Safety
    ///
    /// `task` is a pointer to a live task that the verifier knows the type of.
    #[inline(always)]
    pub(crate) unsafe fn get(&self, task: *mut task_struct) -> *mut T {
        // SAFETY: the caller's contract is the helper's.
        unsafe {
            bpf_task_storage_get(ptr::from_ref(self).cast_mut().cast(), task.cast(), ptr::null_mut(), 0)
                .cast()
        }
    }

    /// The value of a task, made from `initial` where there is none; null when there is no memory for it.
    ///
    /// # Safety
    ///
    /// As for [`Self::get`].
    #[inline(always)]
    pub(crate) unsafe fn get_or_create(&self, task: *mut task_struct, initial: &mut T) -> *mut T {
        // SAFETY: the caller's contract is the helper's; the helper copies `initial`.
        unsafe {
            bpf_task_storage_get(
                ptr::from_ref(self).cast_mut().cast(),
                task.cast(),
                ptr::from_mut(initial).cast(),
                u64::from(BPF_LOCAL_STORAGE_GET_F_CREATE),
            )
            .cast()
        }
    }
}
