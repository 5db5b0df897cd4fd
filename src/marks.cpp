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
  const uint32 hash =
      hash_combine(murmurhash32(database), murmurhash32(static_cast<uint32>(queue_id)));
  return shared->buckets() + hash % static_cast<uint32>(shared->buckets_size);
}

void know_nothing(queue_entry* q) noexcept {
  for (lane& l : q->lanes) {
    l = {lowest_key, DT_NOBEGIN, l.changes + 1};
  }
  for (active_scan& s : q->scans) {
    s.low = lowest_key;
  }
  q->earliest = DT_NOBEGIN;
  q->full = q->passed_over = false;
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
  q->maker = 0;
  q->role = InvalidOid;
  q->quiet = false;
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
    q->epoch++;
    q->maker = 0;
    q->role = InvalidOid;
    q->quiet = false;
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
  for (int n = 0; n < shared->queues_size; n++) {
    if (shared->queues()[n].database == database) {
      unlink(shared->queues() + n);
    }
  }
}

void forget_queue_entry(Oid database, int queue_id) noexcept {
  LWLockAcquire(registry_lock, LW_EXCLUSIVE);
  queue_entry* q = look_up(database, queue_id);
  if (q != nullptr) {
    unlink(q);
  }
  LWLockRelease(registry_lock);
}

void mark_made(Oid database, int queue_id) noexcept {
  LWLockAcquire(registry_lock, LW_EXCLUSIVE);
  queue_entry* q = look_up(database, queue_id);
  if (q != nullptr) {
    q->maker = pg::my_proc_number() + 1;
    q->made_in = GetCurrentSubTransactionId();
  }
  LWLockRelease(registry_lock);
}

namespace {

template <class F> void for_each_made(F&& f) noexcept {
  LWLockAcquire(registry_lock, LW_EXCLUSIVE);
  for (int n = 0; n < shared->queues_size; n++) {
    queue_entry* q = shared->queues() + n;
    if (q->maker == pg::my_proc_number() + 1 && q->database == MyDatabaseId) {
      f(q);
    }
  }
  LWLockRelease(registry_lock);
}

}  // namespace

void keep_made() noexcept {
  for_each_made([](queue_entry* q) { q->maker = 0; });
}

void forget_made(SubTransactionId from) noexcept {
  for_each_made([from](queue_entry* q) {
    if (q->made_in >= from) {
      unlink(q);
    }
  });
}

scan begin_scan(queue_entry* q, int queue_id, int priority) noexcept {
  scan s = {-1, 0, 0, lowest_key};
  SpinLockAcquire(&q->mutex);
  if (q->database == MyDatabaseId && q->queue_id == queue_id) {
    s.epoch = q->epoch;
    s.changes = q->lanes[priority].changes;
    s.start = q->lanes[priority].mark;
    for (int n = 0; n < queue_entry::max_scans && s.place < 0; n++) {
      if (!q->scans[n].used) {
        q->scans[n] = {true, priority, highest_key};
        s.place = n;
      }
    }
  }
  SpinLockRelease(&q->mutex);
  return s;
}

void end_scan(queue_entry* q, const scan& s, int priority, const row_key* last, bool exhausted,
              TimestampTz scanned_at, TimestampTz next_due) noexcept {
  SpinLockAcquire(&q->mutex);
  lane& l = q->lanes[priority];
  if (s.epoch != q->epoch || (s.place < 0 && s.changes != l.changes)) {
    SpinLockRelease(&q->mutex);
    return;
  }
  row_key low = highest_key;
  if (s.place >= 0) {
    low = q->scans[s.place].low;
    q->scans[s.place].used = false;
  }
  row_key mark = exhausted ? row_key{scanned_at, {{0}}} : last != nullptr ? *last : l.mark;
  TimestampTz due = exhausted ? next_due : mark.run_at;
  if (before(low, mark)) {
    mark = low;
  }
  due = std::min(due, low.run_at);
  // Two scans end in any order: the mark only rises here, and next_due only rises with a scan that
  // saw everything.
  if (before(l.mark, mark)) {
    l.mark = mark;
  }
  if (exhausted || due > l.next_due) {
    l.next_due = due;
  }
  find_earliest(q);
  SpinLockRelease(&q->mutex);
}

void drop_scan(queue_entry* q, const scan& s) noexcept {
  SpinLockAcquire(&q->mutex);
  if (s.epoch == q->epoch && s.place >= 0) {
    q->scans[s.place].used = false;
  }
  SpinLockRelease(&q->mutex);
}

survey begin_survey(queue_entry* q) noexcept {
  survey s = {};
  SpinLockAcquire(&q->mutex);
  s.epoch = q->epoch;
  for (int p = 0; p < priorities; p++) {
    s.changes[p] = q->lanes[p].changes;
  }
  SpinLockRelease(&q->mutex);
  return s;
}

bool end_survey(queue_entry* q, const survey& s, const TimestampTz heads[priorities]) noexcept {
  SpinLockAcquire(&q->mutex);
  for (int p = 0; p < priorities && s.epoch == q->epoch; p++) {
    lane& l = q->lanes[p];
    if (l.changes == s.changes[p]) {
      l.next_due = heads[p];
    }
  }
  find_earliest(q);
  const bool known = q->earliest != DT_NOBEGIN;
  SpinLockRelease(&q->mutex);
  return known;
}

namespace {

// Under its mutex.
void lower_lane(queue_entry* q, int priority, const row_key& key) noexcept {
  lane& l = q->lanes[priority];
  l.changes++;
  if (before(key, l.mark)) {
    l.mark = key;
  }
  l.next_due = std::min(l.next_due, key.run_at);
  for (active_scan& s : q->scans) {
    if (s.used && s.priority == priority && before(key, s.low)) {
      s.low = key;
    }
  }
  if (key.run_at < q->earliest) {
    q->earliest = key.run_at;
  }
}

}  // namespace

bool lower(queue_entry* q, int queue_id, int priority, const row_key& key) noexcept {
  SpinLockAcquire(&q->mutex);
  const bool right = q->database == MyDatabaseId && q->queue_id == queue_id;
  if (right) {
    lower_lane(q, priority, key);
  }
  SpinLockRelease(&q->mutex);
  return right;
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
  SpinLockAcquire(&q->mutex);
  for (int p = 0; p < priorities; p++) {
    lower_lane(q, p, lowest_key);
  }
  SpinLockRelease(&q->mutex);
}

lane lane_of(queue_entry* q, int priority) noexcept {
  SpinLockAcquire(&q->mutex);
  const lane l = q->lanes[priority];
  SpinLockRelease(&q->mutex);
  return l;
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
