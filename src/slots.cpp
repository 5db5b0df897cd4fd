#include "slots.hpp"

#include <signal.h>

namespace underway {

worker_slot* take_slot(Oid database, Oid role) noexcept {
  LWLockAcquire(registry_lock, LW_EXCLUSIVE);
  worker_slot* taken = nullptr;
  for (int n = 0; n < shared->slots_size && taken == nullptr; n++) {
    worker_slot* slot = slot_at(n);
    if (slot->state != slot_state::free) {
      continue;
    }
    slot->generation++;
    slot->database = database;
    slot->role = role;
    slot->pid = 0;
    slot->fresh = true;
    slot->connecting = false;
    slot->retire = false;
    slot->retire_at = DT_NOBEGIN;
    slot->overdue = false;
    slot->tasks = 0;
    slot->revoked = 0;
    slot->queue_id = 0;
    slot->started_at = GetCurrentTimestamp();
    slot->running = false;
    slot->died = death::asked;
    slot->cancelled_at = 0;
    slot->has_handed = false;
    slot->prefetched = slot->begun = 0;
    slot->state = slot_state::starting;
    taken = slot;
  }
  LWLockRelease(registry_lock);
  return taken;
}

worker_counts count_workers(Oid database, Oid role) noexcept {
  worker_counts counts;
  for (int n = 0; n < shared->slots_size; n++) {
    worker_slot* slot = slot_at(n);
    const slot_state state = slot->state;
    if (state == slot_state::free || state == slot_state::dead || state == slot_state::abandoned) {
      continue;
    }
    counts.all++;
    if (slot->database == database) {
      counts.database++;
      counts.staying += !slot->retire;
      if (slot->role == role) {
        counts.pool++;
        counts.starting += slot->fresh;
        counts.idle += state == slot_state::idle;
        counts.leaving += slot->retire;
      }
    }
  }
  return counts;
}

int tasks_held(Oid database, int queue_id) noexcept {
  int held = 0;
  for (int n = 0; n < shared->slots_size; n++) {
    worker_slot* slot = slot_at(n);
    if (slot->state != slot_state::free && slot->database == database &&
        slot->queue_id == queue_id) {
      held += slot->tasks;
    }
  }
  return held;
}

void interrupt_task(Oid database, const pg_uuid_t& id) noexcept {
  for (int n = 0; n < shared->slots_size; n++) {
    worker_slot* slot = slot_at(n);
    if (slot->state == slot_state::free || slot->database != database) {
      continue;
    }
    SpinLockAcquire(&slot->mutex);
    // Under the lock: the worker ends its task under it too, so the signal cannot be meant for what
    // it does next.
    if (slot->running && memcmp(&slot->task_id, &id, sizeof id) == 0) {
      TimestampTz not_yet = 0;
      // One that has died and is not reclaimed yet has none: signal 0 would be for ourselves.
      const int pid = slot->pid;
      if (pid != 0 && slot->cancelled_at.compare_exchange_strong(not_yet, GetCurrentTimestamp())) {
        (void)kill(pid, SIGINT);
      }
    }
    for (int i = slot->begun; i < Min(slot->prefetched, worker_slot::max_prefetch); i++) {
      if (memcmp(&slot->ids[i], &id, sizeof id) == 0) {
        slot->overdue = true;
      }
    }
    SpinLockRelease(&slot->mutex);
  }
}

const char* worker_name(const worker_slot* slot) noexcept {
  static char name[64];
  snprintf(name, sizeof name, "background worker %d (pid %d)", number_of(slot), slot->pid.load());
  return name;
}

void worker_left(Oid database) noexcept {
  bool known = false;
  for (int n = 0; n < shared->databases_size; n++) {
    database_entry* db = shared->databases() + n;
    if (db->oid == InvalidOid) {
      continue;
    }
    known = known || db->oid == database;
    db->saturated = false;
    if (db->oid == database || db->starving > 0) {
      poke_coordinator(db);
    }
  }
  if (!known || shared->coordinator_waits) {
    poke_launcher();
  }
}

void free_orphaned_slots() noexcept {
  for (int n = 0; n < shared->slots_size; n++) {
    worker_slot* slot = slot_at(n);
    if (slot->state == slot_state::dead && find_database(slot->database, false) == nullptr) {
      slot->tasks = 0;
      slot->revoked = 0;
      slot->state = slot_state::free;
    }
  }
}

int wake_idle(Oid database, Oid role, int wanted) noexcept {
  int woken = 0;
  for (int n = 0; n < shared->slots_size && woken < wanted; n++) {
    worker_slot* slot = slot_at(n);
    if (slot->database != database || (OidIsValid(role) && slot->role != role)) {
      continue;
    }
    slot_state idle = slot_state::idle;
    if (slot->state.compare_exchange_strong(idle, slot_state::busy)) {
      pg::set_latch_of(slot->proc);
      woken++;
    }
  }
  return woken;
}

}  // namespace underway
