#include "launcher.hpp"

#include "clock.hpp"
#include "coordinator.hpp"
#include "pg/transaction.hpp"
#include "pool.hpp"
#include "process.hpp"

#include <algorithm>

extern "C" PGDLLEXPORT void underway_launcher_main(Datum arg);

namespace underway {

namespace {

// So that probing a cluster of many databases leaves background worker slots for others.
constexpr int most_starting = 2;

// How soon after a shortage of slots it is tried again; nobody tells us when the postmaster has
// freed one.
constexpr TimestampTz shortage_retry = USECS_PER_SEC / 5;

BackgroundWorkerHandle** handles = nullptr;  // by number of database entry

void leave(int, Datum) {
  shared->launcher_pid = 0;
  shared->coordinator_waits = false;
}

bool can_be_served(Form_pg_database form) { return form->datallowconn && !form->datistemplate; }

// Any database may have the extension; a coordinator connects and finds out. Templates have no work
// of their own.
void find_databases() {
  pg::transaction tx(pg::transaction::kind::ours);
  pg::call([] {
    Relation rel = table_open(DatabaseRelationId, AccessShareLock);
    TableScanDesc scan = table_beginscan_catalog(rel, 0, nullptr);
    HeapTuple tuple = nullptr;
    while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection))) {
      auto form = reinterpret_cast<Form_pg_database>(GETSTRUCT(tuple));
      if (!can_be_served(form)) {
        continue;
      }
      database_entry* db = find_database(form->oid, true);
      if (db == nullptr) {
        ereport(WARNING,
                (errmsg("underway: no room for database \"%s\": its background work does not run",
                        NameStr(form->datname)),
                 errhint("Raise underway.max_databases (now %d) and restart the server.",
                         shared->databases_size)));
      } else if (db->coordinator_pid == 0) {
        db->wanted = true;
      }
    }
    table_endscan(scan);
    table_close(rel, AccessShareLock);
  });
  tx.commit();
}

// A scan of the table, since a process without a database may have no access to its indexes
// (relcache.c).
bool is_served(Oid database) {
  pg::transaction tx(pg::transaction::kind::ours);
  const bool served = pg::call([database] {
    Relation rel = table_open(DatabaseRelationId, AccessShareLock);
    ScanKeyData key;
    ScanKeyInit(&key, Anum_pg_database_oid, BTEqualStrategyNumber, F_OIDEQ,
                ObjectIdGetDatum(database));
    TableScanDesc scan = table_beginscan_catalog(rel, 1, &key);
    HeapTuple tuple = heap_getnext(scan, ForwardScanDirection);
    const bool found = HeapTupleIsValid(tuple) &&
                       can_be_served(reinterpret_cast<Form_pg_database>(GETSTRUCT(tuple)));
    table_endscan(scan);
    table_close(rel, AccessShareLock);
    return found;
  });
  tx.commit();
  return served;
}

bool is_due(database_entry* db) noexcept {
  return db->oid != InvalidOid && db->coordinator_pid == 0 && !db->starting && db->holds == 0 &&
         (db->wanted || db->wakes_at <= clock_now());
}

// Those that were dropped, or made templates, under us.
void forget_lost_databases() {
  for (int n = 0; n < shared->databases_size; n++) {
    database_entry* db = shared->databases() + n;
    if (is_due(db) && db->unsure.exchange(false) && !is_served(db->oid)) {
      db->recheck = false;
      if (!forget_database(db)) {
        db->unsure = true;
      }
    }
  }
}

void back_off(database_entry* db) noexcept {
  const int failures = ++db->failures;
  db->retry_at =
      GetCurrentTimestamp() +
      std::min<TimestampTz>(60, TimestampTz{1} << std::min(failures - 1, 6)) * USECS_PER_SEC;
  db->unsure = true;
  db->wanted = true;
}

// Where nothing was to run, a coordinator finds out whether it is to run now.
void look_at_settings() noexcept {
  static int seen_reloads = 0;
  if (seen_reloads == process::reloads()) {
    return;
  }
  seen_reloads = process::reloads();
  for (int n = 0; n < shared->databases_size; n++) {
    database_entry* db = shared->databases() + n;
    if (db->oid != InvalidOid && db->off) {
      db->wanted = true;
    }
  }
}

// A coordinator that the postmaster could not start, or that ended before it attached.
void look_after_starts() {
  for (int n = 0; n < shared->databases_size; n++) {
    if (handles[n] == nullptr) {
      continue;
    }
    database_entry* db = shared->databases() + n;
    pid_t pid = 0;
    const BgwHandleStatus status = GetBackgroundWorkerPid(handles[n], &pid);
    if (status == BGWH_STOPPED || !db->starting) {
      if (status == BGWH_STOPPED && db->starting.exchange(false) && db->oid != InvalidOid) {
        back_off(db);
      }
      pfree(handles[n]);
      handles[n] = nullptr;
    }
  }
}

// The one that has been due longest, of those that may be tried now. When the next one may: *next.
database_entry* choose(TimestampTz* next) noexcept {
  const TimestampTz real = GetCurrentTimestamp();
  const TimestampTz now = clock_now();
  database_entry* best = nullptr;
  for (int n = 0; n < shared->databases_size; n++) {
    database_entry* db = shared->databases() + n;
    if (is_due(db)) {
      const TimestampTz retry_at = db->retry_at;
      if (retry_at > real) {
        *next = std::min(*next, retry_at);
      } else if (best == nullptr || retry_at < best->retry_at) {
        best = db;
      }
    } else if (db->oid != InvalidOid && db->coordinator_pid == 0 && db->wakes_at != DT_NOEND &&
               db->wakes_at > now) {
      *next = std::min<TimestampTz>(*next, real + (db->wakes_at - now));
    }
  }
  return best;
}

void tell_no_slot() {
  if (!shared->told_no_slot.exchange(true)) {
    ereport(WARNING, (errmsg("underway: no background worker slot is free for a coordinator"),
                      errhint("Raise max_worker_processes (now %d) and restart the server.",
                              max_worker_processes)));
  }
}

void start_coordinators(TimestampTz* next) {
  int starting = 0;
  for (int n = 0; n < shared->databases_size; n++) {
    starting += shared->databases()[n].starting;
  }
  bool waiting = false;
  while (starting < most_starting && !waiting) {  // the end of a start wakes us
    database_entry* db = choose(next);
    if (db == nullptr) {
      break;
    }
    const int n = static_cast<int>(db - shared->databases());
    db->wanted = false;
    db->starting = true;
    if (start_coordinator(db, n, &handles[n])) {
      shared->place_to_come = DT_NOBEGIN;
    } else {
      db->starting = false;
      db->wanted = true;
      waiting = true;
      tell_no_slot();
      pool::make_room_for_coordinator();
      *next = std::min(*next, GetCurrentTimestamp() + shortage_retry);
    }
    starting++;
  }
  shared->coordinator_waits = waiting;
}

void run() {
  MemoryContext loop = pg::call([] {
    return AllocSetContextCreate(TopMemoryContext, "underway launcher", ALLOCSET_DEFAULT_SIZES);
  });
  handles = static_cast<BackgroundWorkerHandle**>(pg::call([] {
    return MemoryContextAllocZero(TopMemoryContext, sizeof(BackgroundWorkerHandle*) *
                                                        static_cast<Size>(shared->databases_size));
  }));
  find_databases();
  for (;;) {
    TimestampTz next = GetCurrentTimestamp() + 3600 * USECS_PER_SEC;
    forget_lost_databases();
    free_orphaned_slots();  // theirs too: the next round may be an hour away
    pg::call([&] {
      MemoryContextSwitchTo(TopMemoryContext);
      process::house_keeping();
      look_at_settings();
      look_after_starts();
      start_coordinators(&next);
      MemoryContextSwitchTo(loop);
      MemoryContextReset(loop);
    });
    const TimestampTz wait = std::max<TimestampTz>(next - GetCurrentTimestamp(), 0);
    (void)process::sleep(static_cast<long>(wait / 1000) + 1, "UnderwayLauncherIdle");
  }
}

}  // namespace

void register_launcher() {
  BackgroundWorker worker = {};
  worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
  worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
  worker.bgw_restart_time = 1;
  strlcpy(worker.bgw_library_name, "underway", BGW_MAXLEN);
  strlcpy(worker.bgw_function_name, "underway_launcher_main", BGW_MAXLEN);
  strlcpy(worker.bgw_name, "underway launcher", BGW_MAXLEN);
  strlcpy(worker.bgw_type, "underway launcher", BGW_MAXLEN);
  RegisterBackgroundWorker(&worker);
}

}  // namespace underway

void underway_launcher_main(Datum) {
  using namespace underway;
  before_shmem_exit(leave, 0);
  process::start(InvalidOid, InvalidOid, MyBgworkerEntry->bgw_name);
  shared->launcher_proc = pg::my_proc_number();
  shared->launcher_pid = MyProcPid;
  TimestampTz never = 0;
  shared->recovered_at.compare_exchange_strong(never, GetCurrentTimestamp());
  for (int n = 0; n < shared->databases_size; n++) {
    shared->databases()[n].starting = false;  // asked for by a launcher that is gone
  }
  pg::boundary([] { run(); });
}
