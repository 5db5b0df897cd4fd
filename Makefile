# underway: durable task queues and step functions inside PostgreSQL.
#
#   make, make install   build, and install into the server of $(PG_CONFIG)
#   make demo            a real run on this machine's own files, on a throwaway server
#   make play            psql on a throwaway server
#   make check           all tests; or some: SUITES="regress tap", REGRESS=queues, ISOLATION=..., PGTAP=..., TAP=...
#   make bench           measures each workload beside its plain-SQL limit; LONG=1, ONLY="drain latency", MINUTES=n
#   make bench-peers     measures pg-boss and graphile-worker (from npm) beside ours
#   make lint, headers   the checks of the sources alone; make format lays them out as lint wants

TASKS = demo play check bench bench-peers lint headers format

ifneq ($(filter $(TASKS),$(MAKECMDGOALS)),)

# PGXS stays out here: it may not be installed yet, and it has a target named check of its own.
.PHONY: $(MAKECMDGOALS)

demo play:
	@test/setup/packages build
	@test/setup/build
	@test/setup/workspace test/setup/server test/demo/$@

check:
	@test/setup/packages build test clients
	@test/setup/build
	@test/setup/check

bench:
	@test/setup/packages build bench
	@test/setup/build
	@test/bench/run bench.py

bench-peers:
	@test/setup/packages build bench peers
	@test/setup/build
	@test/bench/run peers/peers.py

lint headers:
	@test/setup/packages build test
	@test/lint/$@

format:
	@test/setup/packages test
	@clang-format -i $$(find src -name '*.?pp')

$(filter-out $(TASKS),$(MAKECMDGOALS)):
	@$(MAKE) --no-print-directory $@

else

EXTENSION = underway
MODULE_big = underway
OBJS = $(patsubst %.cpp,%.o,$(wildcard src/*.cpp src/pg/*.cpp))

# Not named VERSION, which is PostgreSQL's own.
RELEASE := $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" underway.control)
SCRIPT = sql/underway--$(RELEASE).sql
DATA = $(wildcard sql/underway--*--*.sql)
DATA_built = $(SCRIPT)

# make installcheck: on a server that is running already, with the settings of test/conf/underway.conf.
REGRESS := $(sort $(basename $(notdir $(wildcard test/sql/*.sql))))
REGRESS_OPTS = --inputdir=test --load-extension=underway
ISOLATION := $(sort $(basename $(notdir $(wildcard test/specs/*.spec))))
ISOLATION_OPTS = --inputdir=test --outputdir=. --load-extension=underway
PROVE_TESTS := $(wildcard test/t/*.pl)
TAP_TESTS := $(if $(PROVE_TESTS),1)
EXTRA_CLEAN = build results

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)

# The server's headers are C: as system headers they raise no warnings of their own.
PG_CPPFLAGS = -isystem $(includedir_server) -DUNDERWAY_VERSION=\"$(RELEASE)\"
PG_CXXFLAGS = -std=gnu++20 -Wextra $(if $(WERROR),-Werror)
# PGXS gives the flags of the compiler that built the server, whichever builds the extension.
PG_CXXFLAGS += $(if $(findstring clang,$(CXX)),-Wno-unknown-warning-option)

# PGXS links with the C compiler, which would leave libstdc++ out, and builds bitcode without our flags.
override COMPILER = $(CXX) $(CXXFLAGS)
override with_llvm = no

include $(PGXS)

$(OBJS): $(wildcard src/*.hpp src/pg/*.hpp)

$(SCRIPT): $(sort $(wildcard sql/[0-9][0-9]_*.sql)) underway.control
	@printf '%s\n' '\echo Use "CREATE EXTENSION underway" to load this file. \quit' >$@
	cat $(filter sql/%,$^) >>$@

endif
