#include "launcher.hpp"

#include "coordinator.hpp"
#include "pg/transaction.hpp"
#include "process.hpp"
#include "clock.hpp"

#include <algorithm>

extern "C" PGDLLEXPORT void underway_launcher_main(Datum arg);

namespace underway {

namespace {

// So that probing a cluster of many databases leaves background worker slots for others.
constexpr int most_starting = 2;

BackgroundWorkerHandle** handles = nullptr;  // by number of database entry
bool told_no_slot = false;

void leave(int, Datum) {
  shared->launcher_pid = 0;
}

// Any database may have the extension; a coordinator connects and finds out. Templates have no work of their own.
void find_databases() {
  pg::transaction tx(pg::transaction::kind::ours);
  pg::call([] {
    Relation rel = table_open(DatabaseRelationId, AccessShareLock);
    TableScanDesc scan = table_beginscan_catalog(rel, 0, nullptr);
    HeapTuple tuple = nullptr;
    while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection))) {
      auto form = reinterpret_cast<Form_pg_database>(GETSTRUCT(tuple));
      if (!form->datallowconn || form->datistemplate) {
        continue;
      }
      database_entry* db = find_database(form->oid, true);
      if (db == nullptr) {
        ereport(WARNING, (errmsg("underway: no room for database \"%s\": its background work does not run", NameStr(form->datname)),
                          errhint("Raise underway.max_databases (now %d) and restart the server.", shared->databases_size)));
      } else if (db->coordinator_pid == 0) {
        db->wanted = true;
      }
    }
    table_endscan(scan);
    table_close(rel, AccessShareLock);
  });
  tx.commit();
}

void back_off(database_entry* db) noexcept {
  const int failures = ++db->failures;
  db->retry_at = GetCurrentTimestamp() + std::min<TimestampTz>(60, TimestampTz{1} << std::min(failures - 1, 6)) * USECS_PER_SEC;
  db->wanted = true;
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

// A coordinator that cannot connect may be one of a database that is no more.
void forget_dropped() {
  for (int n = 0; n < shared->databases_size; n++) {
    database_entry* db = shared->databases() + n;
    if (db->oid == InvalidOid || db->failures == 0 || !db->wanted || db->starting || db->coordinator_pid != 0) {
      continue;
    }
    pg::transaction tx(pg::transaction::kind::ours);
    const bool exists = pg::call([db] { return SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(db->oid)); });
    tx.commit();
    if (!exists) {
      forget_database(db);
    }
  }
}

void start_coordinators(TimestampTz* next) {
  int starting = 0;
  for (int n = 0; n < shared->databases_size; n++) {
    starting += shared->databases()[n].starting;
  }
  const TimestampTz real = GetCurrentTimestamp();
  const TimestampTz now = clock_now();
  for (int n = 0; n < shared->databases_size; n++) {
    database_entry* db = shared->databases() + n;
    if (db->oid == InvalidOid || db->coordinator_pid != 0 || db->starting || db->holds > 0) {
      continue;
    }
    if (!db->wanted && db->wakes_at > now) {
      if (db->wakes_at != DT_NOEND) {
        *next = std::min<TimestampTz>(*next, real + (db->wakes_at - now));
      }
      continue;
    }
    if (db->retry_at > real) {
      *next = std::min<TimestampTz>(*next, db->retry_at);
      continue;
    }
    if (starting >= most_starting) {
      continue;  // the end of a start wakes us
    }
    db->wanted = false;
    db->starting = true;
    if (start_coordinator(db, n, &handles[n])) {
      starting++;
      told_no_slot = false;
    } else {
      db->starting = false;
      back_off(db);
      *next = std::min<TimestampTz>(*next, db->retry_at);
      if (!told_no_slot) {
        told_no_slot = true;
        ereport(WARNING, (errmsg("underway: no background worker slot is free for a coordinator"),
                          errhint("Raise max_worker_processes (now %d) and restart the server.", max_worker_processes)));
      }
    }
  }
}

void run() {
  MemoryContext loop = pg::call([] { return AllocSetContextCreate(TopMemoryContext, "underway launcher", ALLOCSET_DEFAULT_SIZES); });
  handles = static_cast<BackgroundWorkerHandle**>(pg::call([] {
    return MemoryContextAllocZero(TopMemoryContext,
                                  sizeof(BackgroundWorkerHandle*) * static_cast<Size>(shared->databases_size));
  }));
  find_databases();
  for (;;) {
    TimestampTz next = GetCurrentTimestamp() + 3600 * USECS_PER_SEC;
    forget_dropped();
    pg::call([&] {
      MemoryContextSwitchTo(TopMemoryContext);
      process::house_keeping();
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
