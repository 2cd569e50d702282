//! The part of a pod that answers SCTP where the kernel has it.

use std::sync::{Arc, atomic::Ordering};

use tokio::task::JoinSet;

use super::super::{Answer, LARGEST_DATAGRAM, Served};
use crate::net::kernel_sctp::Socket;

/// Accepts until dropped; the associations belong to this task and end with it.
pub(in super::super) async fn answer(listener: Socket, pod: String, served: Arc<Served>) {
    let mut associations = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // An error here is an association that was gone before it was taken.
                let Ok(socket) = accepted else { continue };
                let (pod, served) = (pod.clone(), Arc::clone(&served));
                // The client sees what went wrong with its association; there is nobody here to tell.
                associations.spawn(async move { drop(answer_messages(&socket, &pod, &served).await) });
            }
            Some(_ended) = associations.join_next() => {}
        }
    }
}

async fn answer_messages(socket: &Socket, pod: &str, served: &Served) -> std::io::Result<()> {
    let (client, local) = (socket.peer()?, socket.local()?);
    let mut buffer = vec![0; LARGEST_DATAGRAM];
    loop {
        let length = socket.receive(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        served.sctp.fetch_add(1, Ordering::Relaxed);
        let asked = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        let answer = Answer { pod: pod.to_owned(), client, local, asked };
        socket.send(answer.line().as_bytes()).await?;
    }
}
