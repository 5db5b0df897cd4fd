// Where a role may enqueue: what the SQL function read_target() said of a queue, remembered while
// it holds. Runs in: any backend. Error discipline: throws pg::error, or as said. Invariant: a call
// goes by what is committed when it begins, whatever the isolation level, and by what its own
// transaction has done (stamp.hpp): as the server goes by its own rights.
#pragma once

#include "shared.hpp"

namespace underway {

struct target {
  int queue_id;
  int priority;
  bool limited;  // it has a ttl:
  Interval ttl;
  bool unattended;  // paused, or for external workers
};

// Asks SQL; as the extension's owner. queue: a datum of text, or null.
target find_target(Oid caller, Datum queue, bool null);
// False: not known. Inside pg::call; queue is not null.
bool known_target(Oid caller, Datum queue, target* found);
// Perhaps nobody will claim a task of it, so that its ttl is to be minded: it is unattended, or may
// be blocked, as far as our processes know.
bool may_lapse(const target& t) noexcept;

}  // namespace underway
