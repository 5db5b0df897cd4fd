#include "task_table.hpp"

namespace underway {

namespace {

pg::relation task("task");
pg::relation primary_key("task_pkey");

#define UNDERWAY_COLUMN(name) #name,
constexpr const char* names[] = {UNDERWAY_TASK_COLUMNS(UNDERWAY_COLUMN)};
#undef UNDERWAY_COLUMN

}  // namespace

pg::columns of_task(names);

void open_tasks(pg::table* t) { t->open(&task, &of_task); }

namespace {

bool find(pg::table* t, const pg_uuid_t* id) {
  ScanKeyData key;
  ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(id));
  t->scan(primary_key.oid(), &key, 1);
  return t->next();
}

}  // namespace

bool stands_at(pg::table* t, const pg_uuid_t* id, const pg::place& where) {
  if (!t->look_at(where)) {
    return false;
  }
  const pg_uuid_t there = t->uuid(of_task[task_column::id]);
  return memcmp(&there, id, sizeof there) == 0;
}

bool find_task(pg::table* t, const pg_uuid_t* id, const pg::place& where) {
  return stands_at(t, id, where) || find(t, id);
}

bool take_out(pg::table* t, const pg_uuid_t* id, int attempt, const pg::place& claimed_at) {
  return find_task(t, id, claimed_at) && t->int4(of_task[task_column::attempt]) == attempt &&
         pg::is_word(t->value(of_task[task_column::state]), "in_progress") &&
         t->remove() == pg::changed::yes;
}

}  // namespace underway
