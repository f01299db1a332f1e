//! The operator as Helm installs it, with the rights, arguments and certificates of the chart, in each mode of
//! certificates. Its pods' containers are processes of this machine; see [`kubelet`].

mod cert_manager;
mod container;
mod existing_secret;
mod kubelet;
mod life;
mod release;
mod self_signed;
mod volume;
