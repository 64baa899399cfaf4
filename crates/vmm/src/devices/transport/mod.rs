//! The carriers between a guest's driver and a virtio device: they own the queues' configuration and the notifications.

pub mod vhost_user;
