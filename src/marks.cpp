#include "marks.hpp"

#include <algorithm>

namespace underway {

bool before(const row_key& a, const row_key& b) noexcept {
  if (a.run_at != b.run_at) {
    return a.run_at < b.run_at;
  }
  return memcmp(a.id.data, b.id.data, UUID_LEN) < 0;
}

namespace {

int* bucket_of(Oid database, int queue_id) noexcept {
  const uint32 hash = hash_combine(murmurhash32(database), murmurhash32(static_cast<uint32>(queue_id)));
  return shared->buckets() + hash % static_cast<uint32>(shared->buckets_size);
}

void know_nothing(queue_entry* q) noexcept {
  for (lane& l : q->lanes) {
    l = {lowest_key, DT_NOBEGIN};
  }
  for (active_scan& s : q->scans) {
    s.low = lowest_key;
  }
  q->earliest = DT_NOBEGIN;
}

void find_earliest(queue_entry* q) noexcept {
  TimestampTz earliest = DT_NOEND;
  for (const lane& l : q->lanes) {
    earliest = std::min(earliest, l.next_due);
  }
  q->earliest = earliest;
}

// Under the registry lock.
void unlink(queue_entry* q) noexcept {
  for (int* at = bucket_of(q->database, q->queue_id); *at >= 0; at = &shared->queues()[*at].next) {
    if (shared->queues() + *at == q) {
      *at = q->next;
      break;
    }
  }
  SpinLockAcquire(&q->mutex);
  q->database = InvalidOid;
  q->role = InvalidOid;
  q->quiet = false;
  q->full = false;
  know_nothing(q);
  SpinLockRelease(&q->mutex);
  shared->queues_used--;
}

queue_entry* look_up(Oid database, int queue_id) noexcept {
  for (int at = *bucket_of(database, queue_id); at >= 0; at = shared->queues()[at].next) {
    queue_entry* q = shared->queues() + at;
    if (q->database == database && q->queue_id == queue_id) {
      return q;
    }
  }
  return nullptr;
}

queue_entry* take_entry(Oid database, int queue_id) noexcept {
  for (int n = 0; n < shared->queues_size; n++) {
    queue_entry* q = shared->queues() + n;
    if (OidIsValid(q->database)) {
      continue;
    }
    SpinLockAcquire(&q->mutex);
    q->database = database;
    q->queue_id = queue_id;
    q->role = InvalidOid;
    q->quiet = false;
    q->full = false;
    for (active_scan& s : q->scans) {
      s.used = false;
    }
    know_nothing(q);
    SpinLockRelease(&q->mutex);
    int* bucket = bucket_of(database, queue_id);
    q->next = *bucket;
    *bucket = n;
    shared->queues_used++;
    return q;
  }
  return nullptr;
}

}  // namespace

queue_entry* find_queue_entry(Oid database, int queue_id, bool make) noexcept {
  LWLockAcquire(registry_lock, LW_SHARED);
  queue_entry* q = look_up(database, queue_id);
  LWLockRelease(registry_lock);
  if (q == nullptr && make) {
    LWLockAcquire(registry_lock, LW_EXCLUSIVE);
    q = look_up(database, queue_id);
    if (q == nullptr) {
      q = take_entry(database, queue_id);
    }
    LWLockRelease(registry_lock);
  }
  return q;
}

void forget_queue_entries(Oid database) noexcept {
  LWLockAcquire(registry_lock, LW_EXCLUSIVE);
  for (int n = 0; n < shared->queues_size; n++) {
    if (shared->queues()[n].database == database) {
      unlink(shared->queues() + n);
    }
  }
  LWLockRelease(registry_lock);
}

void forget_queue_entry(Oid database, int queue_id) noexcept {
  LWLockAcquire(registry_lock, LW_EXCLUSIVE);
  queue_entry* q = look_up(database, queue_id);
  if (q != nullptr) {
    unlink(q);
  }
  LWLockRelease(registry_lock);
}

int begin_scan(queue_entry* q, int priority, row_key* start) noexcept {
  int scan = -1;
  SpinLockAcquire(&q->mutex);
  for (int n = 0; n < queue_entry::max_scans && scan < 0; n++) {
    if (!q->scans[n].used) {
      q->scans[n] = {true, priority, highest_key};
      scan = n;
    }
  }
  if (start != nullptr) {
    *start = q->lanes[priority].mark;
  }
  SpinLockRelease(&q->mutex);
  return scan;
}

void end_scan(queue_entry* q, int scan, int priority, const row_key* last, bool exhausted, TimestampTz scanned_at,
              TimestampTz next_due) noexcept {
  if (scan < 0) {
    return;
  }
  SpinLockAcquire(&q->mutex);
  active_scan& s = q->scans[scan];
  lane& l = q->lanes[priority];
  row_key mark = exhausted ? row_key{scanned_at, {{0}}} : last != nullptr ? *last : l.mark;
  TimestampTz due = exhausted ? next_due : mark.run_at;
  if (before(s.low, mark)) {
    mark = s.low;
  }
  due = std::min(due, s.low.run_at);
  // Two scans end in any order: the mark only rises here, and next_due only rises with a scan that saw everything.
  if (before(l.mark, mark)) {
    l.mark = mark;
  }
  if (exhausted || due > l.next_due) {
    l.next_due = due;
  }
  s.used = false;
  find_earliest(q);
  SpinLockRelease(&q->mutex);
}

void drop_scan(queue_entry* q, int scan) noexcept {
  if (scan >= 0) {
    SpinLockAcquire(&q->mutex);
    q->scans[scan].used = false;
    SpinLockRelease(&q->mutex);
  }
}

bool end_survey(queue_entry* q, int scan, const TimestampTz heads[priorities]) noexcept {
  if (scan < 0) {
    return false;
  }
  SpinLockAcquire(&q->mutex);
  const bool valid = !before(q->scans[scan].low, highest_key);
  if (valid) {
    for (int p = 0; p < priorities; p++) {
      if (q->lanes[p].next_due == DT_NOBEGIN) {
        q->lanes[p].next_due = heads[p];
      }
    }
    find_earliest(q);
  }
  q->scans[scan].used = false;
  SpinLockRelease(&q->mutex);
  return valid;
}

void lower(queue_entry* q, int priority, const row_key& key) noexcept {
  SpinLockAcquire(&q->mutex);
  lane& l = q->lanes[priority];
  if (before(key, l.mark)) {
    l.mark = key;
  }
  l.next_due = std::min(l.next_due, key.run_at);
  for (active_scan& s : q->scans) {
    if (s.used && (s.priority == priority || s.priority < 0) && before(key, s.low)) {
      s.low = key;
    }
  }
  if (key.run_at < q->earliest) {
    q->earliest = key.run_at;
  }
  SpinLockRelease(&q->mutex);
}

void reset_marks(queue_entry* q) noexcept {
  SpinLockAcquire(&q->mutex);
  know_nothing(q);
  SpinLockRelease(&q->mutex);
}

void reset_all_marks(Oid database) noexcept {
  for (int n = 0; n < shared->queues_size; n++) {
    queue_entry* q = shared->queues() + n;
    if (OidIsValid(q->database) && (database == InvalidOid || q->database == database)) {
      reset_marks(q);
    }
  }
}

void lower_to_now(queue_entry* q) noexcept {
  for (int p = 0; p < priorities; p++) {
    lower(q, p, lowest_key);
  }
}

bool lane_is_due(queue_entry* q, int priority, TimestampTz now, TimestampTz* next_due) noexcept {
  SpinLockAcquire(&q->mutex);
  *next_due = q->lanes[priority].next_due;
  SpinLockRelease(&q->mutex);
  return *next_due <= now;
}

int due_priority(queue_entry* q, TimestampTz now, TimestampTz* next_due) noexcept {
  int found = -1;
  SpinLockAcquire(&q->mutex);
  for (int p = 0; p < priorities && found < 0; p++) {
    if (q->lanes[p].next_due <= now) {
      found = p;
      *next_due = q->lanes[p].next_due;
    }
  }
  SpinLockRelease(&q->mutex);
  return found;
}

}  // namespace underway
