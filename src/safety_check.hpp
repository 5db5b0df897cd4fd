// Safety check: a look through the queues for tasks that claims would pass over, or that no timer
// will come for. Nothing depends on it: what it finds is a fault of ours. Runs in: coordinators.
// Error discipline: throws pg::error. Invariant: it costs no more when an old snapshot keeps
// millions of dead entries at the head of the index, so it does not forget the marks, but looks at
// a bounded number of entries and lowers the marks that are wrong, which is always allowed.
#pragma once

#include "queues.hpp"

namespace underway {

void look_through(database_entry* db, queue_list& queues);

}  // namespace underway
