//! What a control process does that starts: go on, found a group, wait to be enrolled, or refuse.
//!
//! A group is founded once, by the one-time file that `cfs admin tls init` leaves. A site that lost its state can therefore
//! never found a second one, whoever boots first and whether or not its peers answer.

/// What a starting control process finds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Start {
    /// This site's name.
    pub site: String,
    /// It only votes.
    pub witness: bool,
    /// Its directory holds a group's state: the group's id.
    pub state: Option<u64>,
    /// The state was begun under this site name; empty: there is none.
    pub state_site: String,
    /// The one-time file is there.
    pub founding_file: bool,
    /// The shipper's directory holds an incarnation, which the group allots to its members: this site was one.
    pub was_member: bool,
    /// The shipper's directory holds epochs that were opened. It may have them from other shippers, without being a member.
    pub knows_epochs: bool,
    /// The data sites that the configuration names besides. They are not asked: founding needs nobody.
    pub peers: Vec<String>,
}

/// What it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Goes on as a member of this group. A founding file that is still there is to be removed.
    Resume(u64),
    /// Founds a group. The file is consumed before anything is granted.
    Found,
    /// Stays up as NOT_ENROLLED.
    Wait {
        /// What for.
        why: String,
        /// The command that goes on.
        next: String,
    },
    /// Does not act: stays up as NOT_ENROLLED unless the directory is another site's.
    Refuse {
        /// Why.
        why: String,
        /// The command that goes on.
        next: String,
    },
}

/// Decides.
pub fn decide(start: &Start) -> Decision {
    if let Some(group) = start.state {
        if start.state_site != start.site {
            return Decision::Refuse {
                why: format!("the control directory belongs to {}, this is {}", start.state_site, start.site),
                next: "point `control_dir` at this site's own directory".into(),
            };
        }
        return Decision::Resume(group);
    }
    // Any member does for an enrolment.
    let member = start.peers.first().map_or("SITE", String::as_str);
    let primary = if let [only] = start.peers.as_slice() { only } else { "SITE" };
    if start.was_member {
        return Decision::Refuse {
            why: format!("the control state of {} is lost, and its shipper's says that it was a member", start.site),
            next: format!("cfs admin replication rejoin --primary {primary}"),
        };
    }
    if !start.founding_file {
        let witness = if start.witness { "--witness " } else { "" };
        return Decision::Wait {
            why: format!("{} has no state and no founding file", start.site),
            next: format!("cfs admin replication enroll {witness}--primary {member}"),
        };
    }
    if start.knows_epochs {
        return Decision::Refuse {
            why: format!("the cluster that {} is to found exists: its shipper has heard of opened epochs", start.site),
            next: format!("cfs admin replication enroll --primary {member}"),
        };
    }
    if start.witness {
        return Decision::Refuse {
            why: format!("{} is a witness: it holds no data and cannot found a cluster", start.site),
            next: "move the founding file to a data site's configuration directory".into(),
        };
    }
    Decision::Found
}
