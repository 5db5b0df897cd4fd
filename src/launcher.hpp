// The launcher: one per cluster, connected to no database; starts a coordinator for each database
// that may have the extension. Runs in: itself, a static background worker, after recovery: so
// nothing runs on a standby, and everything starts on promotion. Error discipline: a boundary; an
// error ends the process and the postmaster restarts it. Invariant: it never waits for one
// database.
#pragma once

namespace underway {

void register_launcher();

}  // namespace underway
