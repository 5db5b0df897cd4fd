#include "handler.hpp"

#include "pg/compat.hpp"
#include "pg/expression.hpp"

namespace underway {

namespace {

bool is_transition(Oid type) {
  const Oid schema = get_namespace_oid("underway", true);
  return OidIsValid(schema) &&
         type == GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("transition"),
                                 ObjectIdGetDatum(schema));
}

bool has_out_argument(HeapTuple tuple) {
  Oid* types = nullptr;
  char** names = nullptr;
  char* modes = nullptr;
  const int n = get_func_arg_info(tuple, &types, &names, &modes);
  for (int i = 0; i < n && modes != nullptr; i++) {
    if (modes[i] == PROARGMODE_OUT || modes[i] == PROARGMODE_TABLE) {
      return true;
    }
  }
  return false;
}

const char* unfit_function(Form_pg_proc form) {
  if (form->prorettype == TRIGGEROID || form->prorettype == EVENT_TRIGGEROID) {
    return "it is a trigger function";
  }
  if (isAnyTempNamespace(form->pronamespace)) {
    return "it is a temporary function of one session";
  }
  return nullptr;
}

}  // namespace

const char* unfit_handler(HeapTuple tuple) {
  auto form = reinterpret_cast<Form_pg_proc>(GETSTRUCT(tuple));
  if (form->prokind != PROKIND_FUNCTION && form->prokind != PROKIND_PROCEDURE) {
    return "it is an aggregate or a window function";
  }
  if (form->proretset) {
    return "it returns a set";
  }
  // Those of a function are its result; CALL wants something written for those of a procedure.
  if (form->prokind == PROKIND_PROCEDURE && has_out_argument(tuple)) {
    return "it is a procedure with OUT arguments";
  }
  return unfit_function(form);
}

const char* unfit_items(HeapTuple tuple) {
  auto form = reinterpret_cast<Form_pg_proc>(GETSTRUCT(tuple));
  if (form->prokind != PROKIND_FUNCTION) {
    return "it is not a function";
  }
  if (!form->proretset) {
    return "it does not return a set";
  }
  if (form->prorettype == RECORDOID && !has_out_argument(tuple)) {
    return "it returns records of unknown columns";
  }
  return unfit_function(form);
}

namespace {

Oid look_up(Oid schema, const char* name, bool takes_input) {
  const Oid type = JSONBOID;
  oidvector* signature = buildoidvector(&type, takes_input ? 1 : 0);
  return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum(name),
                         PointerGetDatum(signature), ObjectIdGetDatum(schema));
}

}  // namespace

Oid find_handler(const char* schema, const char* name, bool takes_input) {
  const Oid schema_oid = get_namespace_oid(schema, true);
  if (!OidIsValid(schema_oid)) {
    return InvalidOid;
  }
  const Oid function = look_up(schema_oid, name, takes_input);
  HeapTuple tuple =
      OidIsValid(function) ? SearchSysCache1(PROCOID, ObjectIdGetDatum(function)) : nullptr;
  if (!HeapTupleIsValid(tuple)) {
    return InvalidOid;
  }
  const bool fit = unfit_handler(tuple) == nullptr;
  ReleaseSysCache(tuple);
  return fit ? function : InvalidOid;
}

Oid find_set_function(const char* schema, const char* name, bool takes_input) {
  const Oid schema_oid = get_namespace_oid(schema, true);
  const Oid function = OidIsValid(schema_oid) ? look_up(schema_oid, name, takes_input) : InvalidOid;
  return OidIsValid(function) && get_func_prokind(function) == PROKIND_FUNCTION ? function
                                                                                : InvalidOid;
}

bool handler::is_planned(Oid function, const char* schema, const char* name) {
  // The plan is made from text: a function that was renamed or moved since it was looked at is not
  // run, and one that is found again under another name needs another plan.
  const char* schema_now = get_namespace_name(get_func_namespace(function));
  const char* name_now = get_func_name(function);
  if (schema_now == nullptr || name_now == nullptr || strcmp(schema_now, schema) != 0 ||
      strcmp(name_now, name) != 0) {
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION), errmsg("the handler no longer exists")));
  }
  if (plan_ != nullptr) {
    if (function == function_ && strcmp(schema_, schema) == 0 && strcmp(name_, name) == 0) {
      return true;
    }
    DropCachedPlan(plan_);
    plan_ = nullptr;
  }
  strlcpy(schema_, schema, sizeof schema_);
  strlcpy(name_, name, sizeof name_);
  return false;
}

void handler::prepare_set(Oid function, const char* schema, const char* name) {
  if (is_planned(function, schema, name)) {
    return;
  }
  takes_input_ = get_func_nargs(function) > 0;
  kind_ = kind::jsonb;
  make_plan(
      psprintf("SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(\"an item\")), '[]')"
               " FROM %s(%s) AS \"an item\"",
               quote_qualified_identifier(schema_, name_), takes_input_ ? "$1" : ""));
  function_ = function;
}

void handler::prepare(Oid function, const char* schema, const char* name) {
  if (is_planned(function, schema, name)) {
    return;
  }
  HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
  if (!HeapTupleIsValid(tuple)) {
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION), errmsg("the handler no longer exists")));
  }
  auto form = reinterpret_cast<Form_pg_proc>(GETSTRUCT(tuple));
  procedure_ = form->prokind == PROKIND_PROCEDURE;
  takes_input_ = form->pronargs == 1;
  const bool as_it_is = form->prorettype == JSONBOID || form->prorettype == VOIDOID ||
                        is_transition(form->prorettype);
  // A procedure with an INOUT argument returns a record of it (the procedure's one argument).
  kind_ = form->prorettype == VOIDOID       ? kind::nothing
          : is_transition(form->prorettype) ? kind::transition
                                            : kind::jsonb;
  StringInfoData sql;
  initStringInfo(&sql);
  const char* called = quote_qualified_identifier(schema_, name_);
  if (procedure_) {
    appendStringInfo(&sql, "CALL %s(%s)", called, takes_input_ ? "$1" : "");
  } else if (as_it_is) {
    appendStringInfo(&sql, "SELECT %s(%s)", called, takes_input_ ? "$1" : "");
  } else {
    appendStringInfo(&sql, "SELECT pg_catalog.to_jsonb(%s(%s))", called, takes_input_ ? "$1" : "");
  }
  ReleaseSysCache(tuple);
  make_plan(sql.data);
  function_ = function;
}

void handler::make_plan(const char* sql) {
  // As exec_parse_message (postgres.c) does for a client's named statement.
  Oid type = JSONBOID;
  RawStmt* raw = linitial_node(RawStmt, pg_parse_query(sql));
  CachedPlanSource* plan = CreateCachedPlan(raw, sql, CreateCommandTag(raw->stmt));
  PushActiveSnapshot(GetTransactionSnapshot());
  List* queries = pg_analyze_and_rewrite_fixedparams(raw, sql, &type, 1, nullptr);
  CompleteCachedPlan(plan, queries, nullptr, &type, 1, nullptr, nullptr, CURSOR_OPT_PARALLEL_OK,
                     true);
  PopActiveSnapshot();
  SaveCachedPlan(plan);
  plan_ = plan;
  is_expression_ = plan->commandTag == CMDTAG_SELECT &&
                   linitial_node(Query, queries)->rtable == NIL &&
                   linitial_node(Query, queries)->queryId == 0;
}

namespace {

// Takes the one column of the one row.
struct catcher {
  DestReceiver receiver;
  bool transition;
  MemoryContext results;
  result* to;
};

Jsonb* copy_jsonb(Datum d, MemoryContext to) {
  MemoryContext old = MemoryContextSwitchTo(to);
  Jsonb* copy = DatumGetJsonbPCopy(d);
  MemoryContextSwitchTo(old);
  return copy;
}

void take_transition(HeapTupleHeader tuple, MemoryContext to, result* r) {
  bool null = false;
  const Datum what = GetAttributeByName(tuple, "action", &null);
  if (null) {
    return;
  }
  const char* name = TextDatumGetCString(what);
  const Datum output = GetAttributeByName(tuple, "output", &null);
  if (!null) {
    r->output = copy_jsonb(output, to);
  }
  if (strcmp(name, "again") == 0) {
    r->what = action::again;
    const Datum delay = GetAttributeByName(tuple, "delay", &null);
    if (!null) {
      r->delay = *DatumGetIntervalP(delay);
    }
    const Datum input = GetAttributeByName(tuple, "input", &null);
    if (!null) {
      r->input = copy_jsonb(input, to);
    }
  } else if (strcmp(name, "give_up") == 0) {
    r->what = action::give_up;
    const Datum error = GetAttributeByName(tuple, "error", &null);
    r->error = MemoryContextStrdup(to, null ? "gave up" : TextDatumGetCString(error));
  } else if (strcmp(name, "next") == 0 || strcmp(name, "go_to") == 0 ||
             strcmp(name, "finish") == 0) {
    r->what = *name == 'n' ? action::done : *name == 'g' ? action::go_to : action::finish;
    r->decided = true;
    const Datum delay = GetAttributeByName(tuple, "delay", &null);
    if (!null) {
      r->delay = *DatumGetIntervalP(delay);
    }
    const Datum step = GetAttributeByName(tuple, "step", &null);
    if (!null) {
      r->step = MemoryContextStrdup(to, TextDatumGetCString(step));
    }
  } else {
    ereport(ERROR,
            (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown transition \"%s\"", name),
             errhint("Return one that a function of the schema underway made: again, give_up, "
                     "next, go_to, finish.")));
  }
}

void take(Datum d, bool transition, MemoryContext to, result* r) {
  if (transition) {
    take_transition(DatumGetHeapTupleHeader(d), to, r);
  } else {
    r->output = copy_jsonb(d, to);
  }
}

bool receive(TupleTableSlot* slot, DestReceiver* self) {
  auto* c = reinterpret_cast<catcher*>(self);
  bool null = false;
  const Datum d = slot_getattr(slot, 1, &null);
  if (!null) {
    take(d, c->transition, c->results, c->to);
  }
  return true;
}
void start_up(DestReceiver*, int, TupleDesc) {}
void shut_down(DestReceiver*) {}
bool ignore(TupleTableSlot*, DestReceiver*) { return true; }

ParamListInfo parameters_of(Jsonb* input) {
  ParamListInfo parameters = makeParamList(1);
  parameters->params[0] = {JsonbPGetDatum(input), false, PARAM_FLAG_CONST, JSONBOID};
  return parameters;
}

}  // namespace

result handler::run(Jsonb* input, MemoryContext results, bool* begun, bool top_level) {
  result r;
  if (!top_level || !is_expression_ || pg::executor_is_hooked() ||
      !evaluate(input, results, begun, &r)) {
    execute(input, results, begun, top_level, &r);
  }
  return r;
}

// With the plan, which was made from text: one that somebody made meanwhile is not the one that was
// looked at.
void handler::check_again() const {
  if (look_up(get_namespace_oid(schema_, true), name_, takes_input_) != function_) {
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION), errmsg("the handler no longer exists")));
  }
  // The executor would refuse it too, but as an error of the task.
  if (!pg::may_execute(function_, GetUserId())) {
    ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                    errmsg("the handler may no longer be executed")));
  }
}

// False: it is to be executed as a statement.
bool handler::evaluate(Jsonb* input, MemoryContext results, bool* begun, result* r) {
  CHECK_FOR_INTERRUPTS();
  ResourceOwner owner = CurrentResourceOwner;
  pg::expression call;
  MemoryContext old = MemoryContextSwitchTo(call.memory());
  ParamListInfo parameters = parameters_of(input);
  PushActiveSnapshot(GetTransactionSnapshot());
  CachedPlan* plan = GetCachedPlan(plan_, parameters, owner, nullptr);
  Expr* only = pg::only_expression(plan);
  if (only != nullptr) {
    check_again();
    *begun = true;
    PortalContext = call.memory();  // ANALYZE works in it
    bool null = false;
    const Datum d = call.value(only, parameters, &null);
    PortalContext = nullptr;
    if (!null && kind_ != kind::nothing) {
      take(d, kind_ == kind::transition, results, r);
    }
  }
  MemoryContextSwitchTo(old);
  call.close();
  ReleaseCachedPlan(plan, owner);
  PopActiveSnapshot();
  return only != nullptr;
}

// As exec_bind_message and exec_execute_message (postgres.c) do: a procedure may commit in it.
void handler::execute(Jsonb* input, MemoryContext results, bool* begun, bool top_level, result* r) {
  // A client's statement may have the name that is empty.
  Portal portal = top_level ? CreatePortal("", true, true) : CreateNewPortal();
  portal->visible = false;
  MemoryContext old = MemoryContextSwitchTo(portal->portalContext);
  ParamListInfo parameters = parameters_of(input);
  PushActiveSnapshot(GetTransactionSnapshot());
  CachedPlan* plan = GetCachedPlan(plan_, parameters, nullptr, nullptr);
  PortalDefineQuery(portal, nullptr, plan_->query_string, plan_->commandTag, plan->stmt_list, plan);
  PopActiveSnapshot();
  check_again();
  *begun = true;
  PortalStart(portal, parameters, 0, InvalidSnapshot);
  MemoryContextSwitchTo(old);
  catcher c = {
      {kind_ == kind::nothing ? ignore : receive, start_up, shut_down, shut_down, DestNone},
      kind_ == kind::transition,
      results,
      r};
  (void)pg::portal_run(portal, top_level, &c.receiver, nullptr);
  PortalDrop(portal, false);
}

}  // namespace underway
