//! One connection through the proxy.

use std::net::Ipv4Addr;
use std::pin::pin;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;

use super::flow::{Ended, flow};
use super::link::{Link, round_trip};

/// How often a connection that waits is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Carries a connection that was accepted to its target, when the links let it through, and until it ends.
pub(super) async fn carry(dialled: TcpStream, target: u16, there: &Link, back: &Link) {
    tokio::select! {
        () = round_trip(there, back) => {}
        () = given_up(&dialled) => return,
    }
    let Ok(target) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else {
        return abort(&dialled);
    };
    // Without it small messages would wait for acknowledgements.
    let _ = (dialled.set_nodelay(true), target.set_nodelay(true));
    join(dialled, target, there, back).await;
}

/// Waits until whoever dialled closes the connection.
async fn given_up(dialled: &TcpStream) {
    loop {
        match dialled.ready(Interest::READABLE).await {
            Ok(ready) if !ready.is_read_closed() => tokio::time::sleep(LOOK).await,
            _ => return,
        }
    }
}

async fn join(mut dialled: TcpStream, mut target: TcpStream, there: &Link, back: &Link) {
    let finished = {
        let (from_dialled, to_dialled) = dialled.split();
        let (from_target, to_target) = target.split();
        let mut forth = pin!(flow(from_dialled, to_target, there));
        let mut home = pin!(flow(from_target, to_dialled, back));
        let (first, other_link) = tokio::select! {
            ended = &mut forth => (ended, back),
            ended = &mut home => (ended, there),
        };
        let forth_first = std::ptr::eq(other_link, back);
        let other = async { if forth_first { home.await } else { forth.await } };
        match first {
            Ended::Reset => false,
            Ended::Finished => match other.await {
                Ended::Finished => true,
                Ended::Reset => false,
                Ended::Gone => {
                    // Whoever finished first is gone: that the other learns of it is what its own link passes.
                    if forth_first {
                        there.pass().await
                    } else {
                        back.pass().await
                    }
                    false
                }
            },
            Ended::Gone => {
                tokio::select! {
                    _ = other => {}
                    () = other_link.pass() => {}
                }
                false
            }
        }
    };
    if !finished {
        abort(&dialled);
        abort(&target);
    }
}

/// Makes the kernel send a reset when the connection is dropped.
fn abort(connection: &TcpStream) {
    // On failure the other end sees an orderly end, which ends it too.
    let _ = rustix::net::sockopt::set_socket_linger(connection, Some(Duration::ZERO));
}
