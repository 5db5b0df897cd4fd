#include "shared.hpp"

#include "await.hpp"
#include "external.hpp"
#include "marks.hpp"
#include "settings.hpp"
#include "slots.hpp"

namespace underway {

shared_state* shared = nullptr;
LWLock* registry_lock = nullptr;

namespace {

shmem_request_hook_type earlier_request_hook = nullptr;
shmem_startup_hook_type earlier_startup_hook = nullptr;

template <class T>
Size sized(int n) noexcept {
  return CACHELINEALIGN(sizeof(T) * static_cast<Size>(n));
}

// The arrays stand behind the header in this order; each accessor below adds the size of the one before it.
template <class T>
T* behind(void* start, Size size) noexcept {
  return reinterpret_cast<T*>(static_cast<char*>(start) + size);
}

int buckets_for(int queues) noexcept { return queues * 2; }

// A handler may wait for another task too.
int most_awaiters() noexcept { return MaxConnections + max_worker_processes; }

Size total_size() noexcept {
  return sized<shared_state>(1) + sized<database_entry>(settings::max_databases) + sized<worker_slot>(max_worker_processes) +
         sized<queue_entry>(settings::max_queues) + sized<awaiter>(most_awaiters()) + sized<work_waiter>(most_awaiters()) +
         sized<int>(buckets_for(settings::max_queues));
}

void request() {
  if (earlier_request_hook != nullptr) {
    earlier_request_hook();
  }
  RequestAddinShmemSpace(total_size());
  RequestNamedLWLockTranche("underway", 1);
}

// Was the last stop a shutdown? The startup process has not run yet, so the control file still says (xlog.c, StartupXLOG).
bool went_down_uncleanly() {
  bool crc_ok = false;
  ControlFileData* control = get_controlfile(DataDir, &crc_ok);
  return control->state == DB_IN_PRODUCTION || control->state == DB_IN_CRASH_RECOVERY;
}

void startup() {
  if (earlier_startup_hook != nullptr) {
    earlier_startup_hook();
  }
  const Size size = total_size();
  bool found = false;
  LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
  shared = static_cast<shared_state*>(ShmemInitStruct("underway", size, &found));
  if (!found) {
    memset(static_cast<void*>(shared), 0, size);
    shared->boot = GetCurrentTimestamp();
    shared->unclean = went_down_uncleanly();
    shared->databases_size = settings::max_databases;
    shared->slots_size = max_worker_processes;
    shared->queues_size = settings::max_queues;
    shared->awaiters_size = most_awaiters();
    shared->buckets_size = buckets_for(settings::max_queues);
    for (int n = 0; n < shared->slots_size; n++) {
      SpinLockInit(&shared->slots()[n].mutex);
    }
    for (int n = 0; n < shared->queues_size; n++) {
      SpinLockInit(&shared->queues()[n].mutex);
    }
    for (int n = 0; n < shared->buckets_size; n++) {
      shared->buckets()[n] = -1;
    }
  }
  registry_lock = &GetNamedLWLockTranche("underway")->lock;
  LWLockRelease(AddinShmemInitLock);
}

}  // namespace

database_entry* shared_state::databases() noexcept { return behind<database_entry>(this, sized<shared_state>(1)); }
worker_slot* shared_state::slots() noexcept { return behind<worker_slot>(databases(), sized<database_entry>(databases_size)); }
queue_entry* shared_state::queues() noexcept { return behind<queue_entry>(slots(), sized<worker_slot>(slots_size)); }
awaiter* shared_state::awaiters() noexcept { return behind<awaiter>(queues(), sized<queue_entry>(queues_size)); }
work_waiter* shared_state::work_waiters() noexcept { return behind<work_waiter>(awaiters(), sized<awaiter>(awaiters_size)); }
int* shared_state::buckets() noexcept { return behind<int>(work_waiters(), sized<work_waiter>(awaiters_size)); }

void install_shared_memory_hooks() {
  earlier_request_hook = shmem_request_hook;
  shmem_request_hook = request;
  earlier_startup_hook = shmem_startup_hook;
  shmem_startup_hook = startup;
}

database_entry* find_database(Oid oid, bool make) noexcept {
  for (int n = 0; n < shared->databases_size; n++) {
    if (shared->databases()[n].oid == oid) {
      return shared->databases() + n;
    }
  }
  if (!make) {
    return nullptr;
  }
  LWLockAcquire(registry_lock, LW_EXCLUSIVE);
  database_entry* entry = nullptr;
  for (int n = 0; n < shared->databases_size && entry == nullptr; n++) {
    if (shared->databases()[n].oid == oid) {
      entry = shared->databases() + n;
    }
  }
  for (int n = 0; n < shared->databases_size && entry == nullptr; n++) {
    database_entry* d = shared->databases() + n;
    if (d->oid == InvalidOid) {
      d->coordinator_pid = 0;
      d->starting = false;
      d->wanted = false;
      d->recheck = false;
      d->restart = false;
      d->holds = 0;
      d->poked = false;
      d->saturated = false;
      d->starving = 0;
      d->blocked = false;
      d->cancels = false;
      d->wakes_at = DT_NOEND;
      d->next_expiry = DT_NOEND;
      d->next_stale = DT_NOEND;
      d->retry_at = DT_NOBEGIN;
      d->failures = 0;
      d->oid = oid;
      entry = d;
    }
  }
  LWLockRelease(registry_lock);
  return entry;
}

void forget_database(database_entry* db) noexcept {
  const Oid oid = db->oid;
  forget_queue_entries(oid);
  LWLockAcquire(registry_lock, LW_EXCLUSIVE);
  db->oid = InvalidOid;
  LWLockRelease(registry_lock);
}

void poke_launcher() noexcept {
  if (shared->launcher_pid != 0) {
    pg::set_latch_of(shared->launcher_proc);
  }
}

void poke_coordinator(database_entry* db) noexcept {
  if (db->coordinator_pid != 0) {
    if (!db->poked.exchange(true)) {
      shared->pokes++;
      pg::set_latch_of(db->coordinator_proc);
    }
    // A coordinator that leaves looks at `poked` last; if it did before we set it, it does not hear of us.
    if (db->coordinator_pid != 0) {
      return;
    }
  }
  db->wanted = true;
  poke_launcher();
}

}  // namespace underway
