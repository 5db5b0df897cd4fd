#include "shared.hpp"

#include "await.hpp"
#include "external.hpp"
#include "marks.hpp"
#include "settings.hpp"
#include "slots.hpp"

#include <sys/stat.h>

namespace underway {

shared_state* shared = nullptr;
LWLock* registry_lock = nullptr;

namespace {

shmem_request_hook_type earlier_request_hook = nullptr;
shmem_startup_hook_type earlier_startup_hook = nullptr;

template <class T> Size sized(int n) noexcept {
  return CACHELINEALIGN(sizeof(T) * static_cast<Size>(n));
}

// The arrays stand behind the header in this order; each accessor below adds the size of the one
// before it.
template <class T> T* behind(void* start, Size size) noexcept {
  return reinterpret_cast<T*>(static_cast<char*>(start) + size);
}

int buckets_for(int queues) noexcept { return queues * 2; }

// A handler may wait for another task too.
int most_awaiters() noexcept { return MaxConnections + max_worker_processes; }

Size total_size() noexcept {
  return sized<shared_state>(1) + sized<database_entry>(settings::max_databases) +
         sized<worker_slot>(max_worker_processes) + sized<queue_entry>(settings::max_queues) +
         sized<awaiter>(most_awaiters()) + sized<work_waiter>(most_awaiters()) +
         sized<int>(buckets_for(settings::max_queues));
}

void request() {
  if (earlier_request_hook != nullptr) {
    earlier_request_hook();
  }
  RequestAddinShmemSpace(total_size());
  RequestNamedLWLockTranche("underway", 1);
}

bool exists(const char* file) {
  struct stat status;
  return stat(file, &status) == 0;  // the server's working directory is its data directory
}

// Was the last stop no shutdown? The startup process has not run yet, so the control file still
// says (xlog.c, StartupXLOG). A base backup and a standby have the control file of a server that
// was running: it did not crash.
bool went_down_uncleanly() {
  if (exists("backup_label") || exists("standby.signal") || exists("recovery.signal")) {
    return false;
  }
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

database_entry* shared_state::databases() noexcept {
  return behind<database_entry>(this, sized<shared_state>(1));
}
worker_slot* shared_state::slots() noexcept {
  return behind<worker_slot>(databases(), sized<database_entry>(databases_size));
}
queue_entry* shared_state::queues() noexcept {
  return behind<queue_entry>(slots(), sized<worker_slot>(slots_size));
}
awaiter* shared_state::awaiters() noexcept {
  return behind<awaiter>(queues(), sized<queue_entry>(queues_size));
}
work_waiter* shared_state::work_waiters() noexcept {
  return behind<work_waiter>(awaiters(), sized<awaiter>(awaiters_size));
}
int* shared_state::buckets() noexcept {
  return behind<int>(work_waiters(), sized<work_waiter>(awaiters_size));
}

void install_shared_memory_hooks() {
  earlier_request_hook = shmem_request_hook;
  shmem_request_hook = request;
  earlier_startup_hook = shmem_startup_hook;
  shmem_startup_hook = startup;
}

namespace {

database_entry* look_up(Oid oid) noexcept {
  for (int n = 0; n < shared->databases_size; n++) {
    if (shared->databases()[n].oid == oid) {
      return shared->databases() + n;
    }
  }
  return nullptr;
}

// `holds` is not set: somebody who found the entry under its earlier oid may be about to take back
// what he added.
void prepare(database_entry* d, Oid oid) noexcept {
  d->coordinator_pid = 0;
  d->starting = false;
  d->wanted = false;
  d->unsure = true;
  d->recheck = false;
  d->restart = false;
  d->yield = false;
  d->off = false;
  d->poked = false;
  d->saturated = false;
  d->starving = 0;
  d->starving_since = DT_NOEND;
  d->place_to_come = DT_NOBEGIN;
  d->blocked = false;
  d->told_held = false;
  d->cancels = false;
  d->looks = false;
  d->controls = false;
  d->asked = true;
  d->wakes_at = DT_NOEND;
  d->next_expiry = DT_NOEND;
  d->next_stale = DT_NOEND;
  d->next_deadline = DT_NOEND;
  d->retry_at = DT_NOBEGIN;
  d->failures = 0;
  d->trouble_at = DT_NOBEGIN;
  d->trouble[0] = '\0';
  d->oid = oid;
}

}  // namespace

database_entry* find_database(Oid oid, bool make) noexcept {
  database_entry* entry = look_up(oid);
  if (entry != nullptr || !make) {
    return entry;
  }
  LWLockAcquire(registry_lock, LW_EXCLUSIVE);
  entry = look_up(oid);
  if (entry == nullptr) {
    entry = look_up(InvalidOid);
    if (entry != nullptr) {
      prepare(entry, oid);
    }
  }
  LWLockRelease(registry_lock);
  return entry;
}

// Whoever asks something of an entry writes that first and then looks whether the entry is still
// the database's; this does it the other way round. So one of the two sees the other. A coordinator
// takes its place under the lock.
bool forget_database(database_entry* db) noexcept {
  LWLockAcquire(registry_lock, LW_EXCLUSIVE);
  const Oid oid = db->oid;
  const int coordinator = db->coordinator_pid;
  bool stays = coordinator != 0 && coordinator != MyProcPid;
  if (!stays) {
    db->oid = InvalidOid;
    stays = db->recheck || db->holds > 0;
    if (stays) {
      db->oid = oid;
    } else {
      db->coordinator_pid = 0;
      forget_queue_entries(oid);
    }
  }
  LWLockRelease(registry_lock);
  return !stays;
}

database_entry* hold_database(Oid oid) noexcept {
  for (;;) {
    database_entry* db = find_database(oid, true);
    if (db == nullptr) {
      return nullptr;
    }
    db->holds++;
    if (db->oid == oid) {
      return db;
    }
    db->holds--;
  }
}

void let_go_of_database(database_entry* db) noexcept {
  db->unsure = true;  // before a coordinator may think that nobody had it
  db->holds--;
  db->failures = 0;
  db->retry_at = DT_NOBEGIN;
  db->wanted = true;
  poke_launcher();
}

void ask_to_recheck(Oid oid) noexcept {
  for (;;) {
    database_entry* db = find_database(oid, true);
    if (db == nullptr) {
      return;
    }
    db->recheck = true;
    if (db->oid == oid) {
      db->failures = 0;
      db->retry_at = DT_NOBEGIN;
      poke_coordinator(db);
      return;
    }
  }
}

void poke_launcher() noexcept {
  if (shared->launcher_pid != 0) {
    pg::set_latch_of(shared->launcher_proc);
  }
}

void poke_coordinator(database_entry* db) noexcept {
  if (db->coordinator_pid != 0 && !db->poked.exchange(true)) {
    shared->pokes++;
    pg::set_latch_of(db->coordinator_proc);
  }
  // One that leaves lets go of its pid first and looks at `poked` then (coordinator.cpp, leave).
  if (db->coordinator_pid == 0) {
    db->wanted = true;
    poke_launcher();
  }
}

}  // namespace underway
