// What a step of a workflow may ask about its run: run_id(), run_input(), step_output(),
// step_outputs(). Null outside. Runs in: workers. Error discipline: entries are boundaries.
#include "context.hpp"
#include "entry.hpp"
#include "pg/identity.hpp"
#include "pg/statement.hpp"

namespace underway {

namespace {

pg::statement run_input("SELECT underway_internal.run_input($1)", UUIDOID);
pg::statement step_output("SELECT underway_internal.step_output($1, $2)", UUIDOID, TEXTOID);
pg::statement step_outputs("SELECT * FROM underway_internal.step_outputs($1, $2)", UUIDOID,
                           TEXTOID);

bool in_a_step() noexcept { return current_task != nullptr && current_task->of_run; }

// The one value, of a statement of ours as the extension's owner.
Datum ask(FunctionCallInfo fcinfo, pg::statement* statement, const pg::value* args) {
  Jsonb* answer = nullptr;
  MemoryContext memory = CurrentMemoryContext;
  try {
    pg::as_owner owner(false);
    statement->run(args, [&](const pg::row& r) { answer = r.jsonb(1, memory); });
  } catch (pg::error& e) {
    e.drop_context();
    throw;
  }
  fcinfo->isnull = answer == nullptr;
  return JsonbPGetDatum(answer);
}

}  // namespace

UNDERWAY_ENTRY(underway_run_id) {
  if (!in_a_step()) {
    PG_RETURN_NULL();
  }
  return pg::call([] {
    auto id = static_cast<pg_uuid_t*>(palloc(sizeof(pg_uuid_t)));
    *id = current_task->run_id;
    return UUIDPGetDatum(id);
  });
}

UNDERWAY_ENTRY(underway_run_input) {
  if (!in_a_step()) {
    PG_RETURN_NULL();
  }
  const pg::value args[1] = {pg::of(&current_task->run_id)};
  return ask(fcinfo, &run_input, args);
}

UNDERWAY_ENTRY(underway_step_output) {
  if (!in_a_step()) {
    PG_RETURN_NULL();
  }
  const pg::value args[2] = {pg::of(&current_task->run_id),
                             pg::of_datum(fcinfo->args[0].value, fcinfo->args[0].isnull)};
  return ask(fcinfo, &step_output, args);
}

UNDERWAY_ENTRY(underway_step_outputs) {
  pg::call([fcinfo] { InitMaterializedSRF(fcinfo, 0); });
  if (!in_a_step()) {
    return Datum{0};
  }
  auto rsinfo = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
  const pg::value args[2] = {pg::of(&current_task->run_id),
                             pg::of_datum(fcinfo->args[0].value, fcinfo->args[0].isnull)};
  try {
    pg::as_owner owner(false);
    step_outputs.run(args, [rsinfo](const pg::row& r) {
      Datum values[5];
      bool nulls[5];
      for (int n = 0; n < 5; n++) {
        const pg::value v = r.get(n + 1);
        values[n] = v.datum;
        nulls[n] = v.null;
      }
      tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
    });
  } catch (pg::error& e) {
    e.drop_context();
    throw;
  }
  return Datum{0};
}

}  // namespace underway
