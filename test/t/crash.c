/* Handlers that crash their backend, or that do not listen: for crashes.pl, which compiles this. */
#include "postgres.h"

#include <signal.h>

#include "fmgr.h"
#include "miscadmin.h"

PG_MODULE_MAGIC;
PG_FUNCTION_INFO_V1(crash);
PG_FUNCTION_INFO_V1(deaf);

Datum
crash(PG_FUNCTION_ARGS)
{
	volatile int *nowhere = NULL;

	*nowhere = 1;
	PG_RETURN_VOID();
}

/* Looks at a request to end, and at nothing else: neither at cancels nor at timeouts. */
Datum
deaf(PG_FUNCTION_ARGS)
{
	for (;;)
	{
		pg_usleep(1000);
		if (ProcDiePending)
			CHECK_FOR_INTERRUPTS();
	}
}
