// A handler: the SQL function or procedure that a queue runs for each task. Finding it, and running
// it. Runs in: backends (resolve, find; run for run_inline) and workers (run). Error discipline:
// server code, called inside pg::call, unless noted. Invariant: stored by schema, name and types,
// found again by them; run as a top-level statement of the session's user would.
#pragma once

#include "pg/error.hpp"

namespace underway {

// The oid by exact schema, name and argument types, or InvalidOid when there is none, or none that
// can be a handler.
Oid find_handler(const char* schema, const char* name, bool takes_input);

// The same for a function that returns a set.
Oid find_set_function(const char* schema, const char* name, bool takes_input);

// Why the function of this row of pg_proc cannot be a handler, or null.
const char* unfit_handler(HeapTuple tuple);

// Why that function cannot give the items of a map, or null.
const char* unfit_items(HeapTuple tuple);

enum class action { done, again, give_up, go_to, finish };

struct result {
  action what = action::done;
  Jsonb* output = nullptr;      // in the context that run was called with
  Jsonb* input = nullptr;       // again
  Interval delay = {};          // again, and what a step of a workflow decides
  bool decided = false;         // done as underway.next() says
  const char* step = nullptr;   // go_to
  const char* error = nullptr;  // give_up
};

// Prepared once for each function; found again when it was changed. May raise.
class handler {
 public:
  Oid function() const noexcept { return function_; }
  bool is_procedure() const noexcept { return procedure_; }
  // Looks the function up and analyses the call, as the session's user. Raises what the server
  // raises.
  void prepare(Oid function, const char* schema, const char* name);
  // begun: set once the handler was found. top_level: as the statement of a session, where a
  // procedure may commit; else inside the statement of a client.
  result run(Jsonb* input, MemoryContext results, bool* begun, bool top_level);
  // prepare() for a function that returns a set: its output is the array of its rows.
  void prepare_set(Oid function, const char* schema, const char* name);

 private:
  enum class kind { nothing, jsonb, transition };
  bool is_planned(Oid function, const char* schema, const char* name);
  void make_plan(const char* sql);
  void check_again() const;
  bool evaluate(Jsonb* input, MemoryContext results, bool* begun, result* r);
  void execute(Jsonb* input, MemoryContext results, bool* begun, bool top_level, result* r);
  Oid function_ = InvalidOid;
  char schema_[NAMEDATALEN] = "";
  char name_[NAMEDATALEN] = "";
  bool procedure_ = false;
  bool takes_input_ = false;
  kind kind_ = kind::nothing;
  CachedPlanSource* plan_ = nullptr;
  bool is_expression_ = false;  // perhaps: its plan decides
};

}  // namespace underway
