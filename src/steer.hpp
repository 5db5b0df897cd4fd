// Steer: what was asked of runs (cancel, pause, resume, retry), and their deadlines. Runs in:
// coordinators. Error discipline: throws pg::error; one run's trouble is logged and holds up no
// other. Invariant: never waits for who has a run or a task locked: it looks again soon.
#pragma once

#include "shared.hpp"

namespace underway::steer {

// Does what is due; returns when to look again (real time).
TimestampTz run(database_entry* db);

}  // namespace underway::steer
