#include "targets.hpp"

#include "pg/statement.hpp"
#include "stamp.hpp"

namespace underway {

namespace {

pg::statement read_target(
    "SELECT queue_id, priority, ttl, unattended FROM underway_internal.read_target(CAST($1 AS oid),"
    " $2)",
    OIDOID, TEXTOID);

constexpr int longest_name = 128;  // check_name() allows no longer one

struct entry {
  stamp holds;
  Oid caller;
  int length;
  char name[longest_name];
  struct target target;
};

// Two that fall on the same place take turns in it.
entry places[64];

struct name {
  const char* bytes;
  int length;
};

name name_of(Datum queue) {
  text* t = DatumGetTextPP(queue);
  return {VARDATA_ANY(t), static_cast<int>(VARSIZE_ANY_EXHDR(t))};
}

entry* place_of(Oid caller, const name& n) noexcept {
  const uint32 hash = hash_bytes(reinterpret_cast<const unsigned char*>(n.bytes), n.length);
  return &places[(hash ^ caller) % lengthof(places)];
}

}  // namespace

bool known_target(Oid caller, Datum queue, target* found) {
  const name n = name_of(queue);
  const entry* e = place_of(caller, n);
  if (!e->holds.taken() || e->caller != caller || e->length != n.length ||
      memcmp(e->name, n.bytes, static_cast<Size>(n.length)) != 0 || take_stamp() != e->holds) {
    return false;
  }
  *found = e->target;
  return true;
}

target find_target(Oid caller, Datum queue, bool null) {
  const stamp before = pg::call([] { return take_stamp(); });
  const pg::value args[2] = {pg::of_oid(caller), pg::of_datum(queue, null)};
  target found = {};
  read_target.run(
      args,
      [&found](const pg::row& r) {
        found.queue_id = r.int4(1);
        found.priority = r.int4(2);
        found.limited = !r.null(3);
        found.unattended = r.boolean(4);
        if (found.limited) {
          found.ttl = *DatumGetIntervalP(r.get(3).datum);
        }
      },
      true);
  const name n = pg::call([queue] { return name_of(queue); });
  if (before.taken() && n.length <= longest_name) {
    entry* e = place_of(caller, n);
    *e = {before, caller, n.length, {}, found};
    memcpy(e->name, n.bytes, static_cast<Size>(n.length));
  }
  return found;
}

bool may_lapse(const target& t) noexcept {
  if (!t.limited || t.unattended) {
    return t.limited;
  }
  const database_entry* db = find_database(MyDatabaseId, false);
  return db != nullptr && db->blocked;
}

}  // namespace underway
