// Archive: where tasks go that have succeeded. Each row moves from the table of unfinished tasks to
// the open table of its ring, or goes, by what the queue keeps; the fence is in the same act. Runs
// in: workers, and clients that complete; as the extension's owner. Error discipline: throws
// pg::error. Invariant: a row moves only as the attempt that is given; the move is part of the
// transaction, as a statement of its own would be.
#pragma once

#include "pg/relation.hpp"

namespace underway {

struct success {
  const pg_uuid_t* id;
  int attempt;
  Jsonb* output;        // or null
  const char* notices;  // or null
  pg::place at;         // of its row, where that is known
  bool moved;
};

// Returns how many of them were the attempts given, in progress, and have moved.
int archive_succeeded(bool kept, success* tasks, int n);

}  // namespace underway
