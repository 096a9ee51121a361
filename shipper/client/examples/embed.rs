//! What a metadata service does with the client: appends two operations and waits until they are durable.
//!
//! `cargo run -p cfs-client --example embed -- DIR/site-a/run/shipper.sock`

use cfs_client::{Error, Options, Producer, Target};
use cfs_model::op::{Attributes, Create, InodeKind, Op, SetXattr, op::Kind};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let socket = std::env::args_os().nth(1).unwrap_or_else(|| "/run/claudefs/shipper.sock".into());
    // The name is this service's own and outlives it: under it the journal remembers how far it came.
    let producer = Producer::connect(Target::Unix(socket.into()), "mds-0", Options::default()).await?;

    let attributes = Attributes { mode: Some(0o644), size: Some(0), ..Attributes::default() };
    let (kind, name) = (InodeKind::File as i32, "hello".into());
    let create = Create { parent: 2, name, inode: 4711, kind, attributes: Some(attributes), device: 0 };
    let tag = SetXattr { inode: 4711, name: "user.tag".into(), value: "blue".into() };

    // Appending waits only for room. Both are on their way before either is durable.
    let created = producer.append(&Op { kind: Some(Kind::Create(create)) }).await?;
    let tagged = producer.append(&Op { kind: Some(Kind::SetXattr(tag)) }).await?;
    created.await?;
    match tagged.await {
        Ok(ack) => println!("durable through {} of stream {}", ack.lsn, ack.stream),
        Err(Error::Invalid { why, .. }) => println!("the shipper will never take this entry: {why}"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
