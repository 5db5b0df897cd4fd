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
  bool lapses;
  Interval ttl;  // if it lapses
};

// Asks SQL; as the extension's owner. queue: a datum of text, or null.
target find_target(Oid caller, Datum queue, bool null);
// False: not known. Inside pg::call; queue is not null.
bool known_target(Oid caller, Datum queue, target* found);

}  // namespace underway
