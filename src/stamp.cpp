#include "stamp.hpp"

#include "entry.hpp"

namespace underway {

namespace {

uint64 catalogs = 1;
bool watching = false;
bool written = false;     // by this transaction
bool committing = false;  // it is counted in queue_commits

void begin_commit() noexcept {
  if (!committing) {
    committing = true;
    shared->queue_commits++;
  }
}

void end_commit() noexcept {
  if (written || committing) {
    shared->queue_versions++;
  }
  if (committing) {
    shared->queue_commits--;
  }
  written = committing = false;
}

// An aborted one raises the version too: that is never wrong.
void at_end(XactEvent event, void*) {
  switch (event) {
    case XACT_EVENT_PRE_COMMIT:
      if (written) {
        begin_commit();
      }
      break;
    case XACT_EVENT_COMMIT:
    case XACT_EVENT_ABORT:
    case XACT_EVENT_PREPARE:
      end_commit();
      break;
    default:
      break;
  }
}

void catalogs_changed(Datum, int, uint32) { catalogs++; }

}  // namespace

stamp take_stamp() {
  if (!watching) {
    CacheRegisterSyscacheCallback(AUTHOID, catalogs_changed, 0);
    CacheRegisterSyscacheCallback(AUTHMEMMEMROLE, catalogs_changed, 0);
    // Its owner is the member of pg_database_owner.
    CacheRegisterSyscacheCallback(DATABASEOID, catalogs_changed, 0);
    // DROP EXTENSION: with its schema everything in it has gone.
    CacheRegisterSyscacheCallback(NAMESPACEOID, catalogs_changed, 0);
    watching = true;
  }
  if (written || RecoveryInProgress()) {
    return {};
  }
  AcceptInvalidationMessages();
  if (shared->queue_commits != 0) {
    return {};
  }
  return {shared->queue_versions, catalogs};
}

void note_queues_written() noexcept { written = true; }

void note_prepared_commit() noexcept { begin_commit(); }

void install_stamp_callbacks() { RegisterXactCallback(at_end, nullptr); }

UNDERWAY_ENTRY(underway_queues_written) {
  note_queues_written();
  return PointerGetDatum(nullptr);
}

}  // namespace underway
