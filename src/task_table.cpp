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

bool take_out(pg::table* t, const pg_uuid_t* id, int attempt) {
  ScanKeyData key;
  ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(id));
  t->scan(primary_key.oid(), &key, 1);
  return t->next() && t->int4(of_task[task_column::attempt]) == attempt &&
         pg::is_word(t->value(of_task[task_column::state]), "in_progress") &&
         t->remove() == pg::changed::yes;
}

}  // namespace underway
