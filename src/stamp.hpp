// When what a process remembers of queues and of rights on them still holds.
// Runs in: any backend. Error discipline: as each function says. Invariant: what was read after a
// stamp was taken is what a new snapshot would show now if the same stamp can be taken now: no
// change of a queue, of a right on one, of a role or of the extension has become visible since.
//
// Changes of queues and rights: a trigger of these tables notes them in the transaction that writes
// (queues_written). Its commit counts itself among `queue_commits` before it becomes visible and
// raises `queue_versions` after that; while one is between the two, and in the transaction itself
// from its first change on, no stamp can be had. Changes of roles, and of the extension: the
// server's own invalidation messages, as for its own caches.
//
// No stamp either in recovery, where the tables change without triggers.
#pragma once

#include "shared.hpp"

namespace underway {

struct stamp {
  uint64 queues = 0;
  uint64 catalogs = 0;  // 0: none could be taken
  bool taken() const noexcept { return catalogs != 0; }
  bool operator==(const stamp&) const noexcept = default;
};

// Before the snapshot of what is then read. Inside pg::call.
stamp take_stamp();

// This transaction has written to the tables of queues or of rights on them.
void note_queues_written() noexcept;
// COMMIT PREPARED may make such changes visible, and no callback of their transaction says so: to
// be called before it; ends with the statement's own transaction.
void note_prepared_commit() noexcept;

void install_stamp_callbacks();

}  // namespace underway
