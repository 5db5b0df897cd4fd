#include "transaction.hpp"

#include "compat.hpp"

namespace underway::pg {

namespace {
uint64 begun_by_this_process = 0;
}  // namespace

uint64 transaction::begun() noexcept { return begun_by_this_process; }

transaction::transaction(kind k) {
  begun_by_this_process++;
  call([k] {
    SetCurrentStatementStartTimestamp();
    StartTransactionCommand();
    if (k == kind::ours) {
      // Before the first snapshot, where SET TRANSACTION would set the same variables (variable.c).
      XactIsoLevel = XACT_READ_COMMITTED;
      XactReadOnly = false;
      XactDeferrable = false;
      no_transaction_timeout();
    }
  });
}

transaction::~transaction() {
  if (!open_) {
    return;
  }
  try {
    call([] {
      AbortCurrentTransaction();
      // Those that a procedure's loop kept open over its COMMIT outlive the abort, as in the
      // server's main loop (postgres.c).
      PortalErrorCleanup();
    });
  } catch (error&) {
    // A process that cannot abort has no state to go on with; its slot tells the coordinator.
    proc_exit(1);
  }
}

void transaction::commit() {
  call([] { CommitTransactionCommand(); });
  open_ = false;
  call([] { pgstat_report_stat(false); });
}

}  // namespace underway::pg
