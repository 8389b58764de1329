/*
 * base/check.h: assertions that ship. CHECK is for programming errors only; user input never reaches one
 * unvalidated. It prints file, line and condition to stderr and aborts.
 */
#ifndef BASE_CHECK_H
#define BASE_CHECK_H

#define CHECK(condition) ((condition) ? (void)0 : check_failed(__FILE__, __LINE__, #condition))
_Noreturn void check_failed(const char *file, int line, const char *condition);

#endif
