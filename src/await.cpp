#include "await.hpp"

#include "clock.hpp"
#include "entry.hpp"
#include "pg/identity.hpp"
#include "pg/statement.hpp"
#include "sleep.hpp"

namespace underway {

void wake_awaiters(Oid database, const ended_tasks* ended) noexcept {
  for (int i = 0; i < shared->awaiters_size; i++) {
    awaiter& a = shared->awaiters()[i];
    const int proc = a.proc_plus_one;
    if (proc != 0 && a.database == database && (ended == nullptr || ended->may_hold(a.id))) {
      pg::set_latch_of(proc - 1);
    }
  }
}

namespace {

constexpr int64 longest_await_ms = 60 * 1000;
constexpr int64 longest_wait_ms = int64{24} * 3600 * 1000;

int my_place = -1;
bool registered_exit = false;

void leave_place() noexcept {
  if (my_place >= 0) {
    shared->awaiters()[my_place].proc_plus_one = 0;
    shared->awaiting--;
    my_place = -1;
  }
}

void take_place(const pg_uuid_t& id) {
  if (!registered_exit) {
    before_shmem_exit([](int, Datum) { leave_place(); }, 0);
    registered_exit = true;
  }
  // An error left it behind: the transaction that held it is over.
  leave_place();
  LWLockAcquire(registry_lock, LW_EXCLUSIVE);
  for (int n = 0; n < shared->awaiters_size && my_place < 0; n++) {
    awaiter& a = shared->awaiters()[n];
    if (a.proc_plus_one == 0) {
      a.database = MyDatabaseId;
      a.id = id;
      a.proc_plus_one = pg::my_proc_number() + 1;
      my_place = n;
    }
  }
  LWLockRelease(registry_lock);
  if (my_place < 0) {
    ereport(ERROR,
            (errcode(ERRCODE_TOO_MANY_CONNECTIONS), errmsg("too many sessions wait for tasks"),
             errhint("There is room for max_connections and max_worker_processes of them.")));
  }
  shared->awaiting++;
}

pg::statement seen_state(
    "SELECT s.state, s.ours FROM underway_internal.state_for(CAST($1 AS oid), $2) s", OIDOID,
    UUIDOID);

struct seen {
  bool found = false;
  bool ours = false;  // of this very transaction
  bool finished = false;
  char state[16] = "";
};

seen look(Oid caller, const pg_uuid_t* id) {
  seen s;
  pg::as_owner owner(false);
  const pg::value args[2] = {pg::of_oid(caller), pg::of(id)};
  seen_state.run(args, [&s](const pg::row& r) {
    s.found = true;
    strlcpy(s.state, r.text(1, CurrentMemoryContext), sizeof s.state);
    s.ours = r.boolean(2);
    s.finished = strcmp(s.state, "succeeded") == 0 || strcmp(s.state, "failed") == 0 ||
                 strcmp(s.state, "cancelled") == 0;
  });
  return s;
}

// earlier: it was there when we looked first. Then it has ended since, and nothing is kept of it.
void check_id(const seen& s, const pg_uuid_t* id, bool earlier) {
  if (!s.found && !earlier) {
    // The words of underway_internal.no_task().
    ereport(ERROR, (errcode(ERRCODE_NO_DATA_FOUND),
                    errmsg("task %s does not exist",
                           DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(id)))),
                    errhint("Its transaction may not have committed, it may be kept no longer, or "
                            "you may not have the right to "
                            "see it.")));
  }
  if (s.ours) {
    ereport(
        ERROR,
        (errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
         errmsg("the task was enqueued by this transaction, so it cannot run before it commits"),
         errhint("Commit first, then wait.")));
  }
}

}  // namespace

// Looks, sleeps and looks again, each time with a new snapshot; then answers what status() answers.
UNDERWAY_ENTRY(underway_await) {
  const Oid caller = GetUserId();
  const TimestampTz end = pg::call([fcinfo] {
    require_preload();
    if (PG_ARGISNULL(0)) {
      ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("id must not be null"),
                      errhint("Give the id that underway.enqueue() returned.")));
    }
    const int64 ms =
        checked_timeout(PG_ARGISNULL(1) ? nullptr : PG_GETARG_INTERVAL_P(1), longest_await_ms);
    if (IsolationUsesXactSnapshot()) {
      ereport(ERROR, (errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
                      errmsg("await cannot see the end of a task in a REPEATABLE READ or "
                             "SERIALIZABLE transaction"),
                      errhint("CALL underway.wait_for(id) outside a transaction block.")));
    }
    take_place(*PG_GETARG_UUID_P(0));
    return GetCurrentTimestamp() + ms * 1000;
  });
  const pg_uuid_t* id = PG_GETARG_UUID_P(0);
  for (bool earlier = false;; earlier = true) {
    const seen s = look(caller, id);
    const bool again = pg::call([&] {
      check_id(s, id, earlier);
      return s.found && !s.finished && sleep_until(end);
    });
    if (!again) {
      break;
    }
  }
  leave_place();
  return pg::call([fcinfo, id] {
    LOCAL_FCINFO(status, 1);
    FmgrInfo flinfo;
    const Oid uuid = UUIDOID;
    const Oid function =
        GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum("status"),
                        PointerGetDatum(buildoidvector(&uuid, 1)),
                        ObjectIdGetDatum(get_namespace_oid("underway", false)));
    fmgr_info(function, &flinfo);
    InitFunctionCallInfoData(*status, &flinfo, 1, InvalidOid, nullptr, fcinfo->resultinfo);
    status->args[0] = {UUIDPGetDatum(id), false};
    const Datum result = FunctionCallInvoke(status);
    fcinfo->isnull = status->isnull;
    return result;
  });
}

// A procedure: commits before it sleeps, so that it holds neither xid nor xmin.
UNDERWAY_ENTRY(underway_wait_for) {
  const Oid caller = GetUserId();
  pg_uuid_t id = {};
  const TimestampTz end = pg::call([&] {
    require_preload();
    if (PG_ARGISNULL(0)) {
      ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("id must not be null"),
                      errhint("Give the id that underway.enqueue() returned.")));
    }
    id = *PG_GETARG_UUID_P(0);
    const int64 ms =
        checked_timeout(PG_ARGISNULL(1) ? nullptr : PG_GETARG_INTERVAL_P(1), longest_wait_ms);
    require_top_level(fcinfo, "wait_for", ", or use underway.await(id)");
    take_place(id);
    SPI_connect_ext(SPI_OPT_NONATOMIC);
    if (IsolationUsesXactSnapshot()) {
      SPI_commit();  // a snapshot that is older than our place would not see the end that nobody
                     // wakes us for any more
    }
    return GetCurrentTimestamp() + ms * 1000;
  });
  seen s;
  for (bool earlier = false;; earlier = true) {
    s = look(caller, &id);
    const bool again = pg::call([&] {
      check_id(s, &id, earlier);
      if (!s.found || s.finished || GetCurrentTimestamp() >= end) {
        return false;
      }
      SPI_commit();
      return sleep_until(end);
    });
    if (!again) {
      break;
    }
  }
  leave_place();
  return pg::call([&] {
    SPI_finish();
    return text_row(fcinfo, s.found ? s.state : nullptr);
  });
}

}  // namespace underway
