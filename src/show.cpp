// What the workers do, for views and for status(): underway_internal.workers(); and what there is
// of databases, for tests. Runs in: any backend, as the extension's owner. Error discipline: a
// boundary. Invariant: a row is one slot, read under its lock.
#include "entry.hpp"
#include "settings.hpp"
#include "slots.hpp"

namespace underway {

namespace {

struct picture {
  bool running;
  pg_uuid_t task_id;
  int attempt;
  TimestampTz task_started_at;
  char progress[worker_slot::progress_size];
};

picture look(worker_slot* slot) noexcept {
  picture p;
  SpinLockAcquire(&slot->mutex);
  p.running = slot->running;
  p.task_id = slot->task_id;
  p.attempt = slot->attempt;
  p.task_started_at = slot->task_started_at;
  memcpy(p.progress, slot->progress, sizeof p.progress);
  SpinLockRelease(&slot->mutex);
  return p;
}

const char* name_of(slot_state state) noexcept {
  switch (state) {
    case slot_state::free:
      return "free";
    case slot_state::starting:
      return "starting";
    case slot_state::busy:
    case slot_state::reserved:
      return "busy";
    case slot_state::idle:
      return "idle";
    case slot_state::abandoned:
    case slot_state::dead:
      return "dead";
  }
  return "?";
}

}  // namespace

UNDERWAY_ENTRY(underway_workers) {
  return pg::call([fcinfo] {
    require_preload();
    InitMaterializedSRF(fcinfo, 0);
    auto rsinfo = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
    for (int n = 0; n < shared->slots_size; n++) {
      worker_slot* slot = slot_at(n);
      const slot_state state = slot->state;
      if (state == slot_state::free) {
        continue;
      }
      picture p = look(slot);
      const int pid = slot->pid;
      Datum values[13] = {Int32GetDatum(n),
                          Int32GetDatum(pid),
                          ObjectIdGetDatum(slot->database),
                          ObjectIdGetDatum(slot->role),
                          CStringGetTextDatum(name_of(state)),
                          Int32GetDatum(slot->queue_id),
                          UUIDPGetDatum(&p.task_id),
                          Int32GetDatum(p.attempt),
                          Int32GetDatum(slot->tasks),
                          TimestampTzGetDatum(slot->started_at),
                          TimestampTzGetDatum(p.task_started_at),
                          Int32GetDatum(static_cast<int32>(slot->generation)),
                          p.running && p.progress[0] != '\0'
                              ? DirectFunctionCall1(jsonb_in, CStringGetDatum(p.progress))
                              : Datum{0}};
      bool nulls[13] = {false,
                        pid == 0,
                        false,
                        false,
                        false,
                        slot->tasks == 0,
                        !p.running,
                        !p.running,
                        false,
                        false,
                        !p.running,
                        false,
                        !p.running || p.progress[0] == '\0'};
      tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
    }
    return Datum{0};
  });
}

UNDERWAY_ENTRY(underway_databases) {
  return pg::call([fcinfo] {
    require_preload();
    InitMaterializedSRF(fcinfo, 0);
    auto rsinfo = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
    for (int n = 0; n < shared->databases_size; n++) {
      database_entry* db = shared->databases() + n;
      const Oid oid = db->oid;
      if (!OidIsValid(oid)) {
        continue;
      }
      const int pid = db->coordinator_pid;
      LWLockAcquire(registry_lock, LW_SHARED);
      const TimestampTz trouble_at = db->trouble_at;
      const Datum trouble = CStringGetTextDatum(db->trouble);
      LWLockRelease(registry_lock);
      const bool well = trouble_at == DT_NOBEGIN;
      Datum values[9] = {ObjectIdGetDatum(oid),
                         Int32GetDatum(pid),
                         BoolGetDatum(db->wanted),
                         TimestampTzGetDatum(db->wakes_at),
                         Int32GetDatum(db->holds),
                         BoolGetDatum(db->blocked),
                         BoolGetDatum(db->starving > 0),
                         TimestampTzGetDatum(trouble_at),
                         trouble};
      bool nulls[9] = {false, pid == 0, false, false, false, false, false, well, well};
      tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
    }
    return Datum{0};
  });
}

// A session that was there before ALTER DATABASE ... SET has a value of its own, which nobody works
// by.
UNDERWAY_ENTRY(underway_is_enabled) {
  const database_entry* db = shared == nullptr ? nullptr : find_database(MyDatabaseId, false);
  PG_RETURN_BOOL(settings::enabled && (db == nullptr || !db->off));
}

UNDERWAY_ENTRY(underway_counters) {
  return pg::call([fcinfo] {
    require_preload();
    TupleDesc descriptor = nullptr;
    if (get_call_result_type(fcinfo, nullptr, &descriptor) != TYPEFUNC_COMPOSITE) {
      elog(ERROR, "counters must return a record");
    }
    Datum values[2] = {Int64GetDatum(static_cast<int64>(shared->transactions)),
                       Int64GetDatum(static_cast<int64>(shared->pokes))};
    bool nulls[2] = {false, false};
    return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(descriptor), values, nulls));
  });
}

}  // namespace underway
