// Statements of others that concern our processes: those that need a database without us, and those
// that make or drop what we use. Runs in: any backend. Error discipline: hooks are boundaries;
// whatever is held is let go at the end of the transaction. Invariant: nothing is stopped for a
// statement that its user may not run, and all goes on when it fails.
#pragma once

namespace underway {

void install_hooks();

}  // namespace underway
