/*
 * A PKCS#11 module that forwards every call to another one, REAL, and misbehaves as the file CONTROL says: lines of a
 * function and a fault, see faulty.go. It notes its calls in CONTROL.calls.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pkcs11go.h"

static CK_FUNCTION_LIST *real;
static CK_FUNCTION_LIST list;

/* told reads what to do in a function: 1 and the fault's name and argument, or 0. */
static int told(const char *function, char fault[16], unsigned long *argument) {
	char line[80], name[32];
	int found = 0;
	FILE *f = fopen(CONTROL, "re");
	if (f == NULL)
		return 0;
	while (!found && fgets(line, sizeof line, f) != NULL) {
		*argument = 0;
		found = sscanf(line, "%31s %15s %li", name, fault, (long *)argument) >= 2 && strcmp(name, function) == 0;
	}
	fclose(f);
	return found;
}

static void note(const char *function) {
	char line[64];
	int n = snprintf(line, sizeof line, "%s %d\n", function, (int)getpid());
	int fd = open(CONTROL ".calls", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, line, (size_t)n) != n)
		abort();
	close(fd);
}

/* misbehave does what comes before the call; anything but CKR_OK is returned instead of it. */
static CK_RV misbehave(const char *function) {
	char fault[16];
	unsigned long argument;
	note(function);
	while (told(function, fault, &argument)) {
		if (strcmp(fault, "hang") == 0) {
			usleep(2000);
			continue; /* until told otherwise */
		}
		if (strcmp(fault, "slow") == 0)
			usleep((useconds_t)argument * 1000);
		else if (strcmp(fault, "abort") == 0)
			abort();
		else if (strcmp(fault, "segv") == 0)
			*(volatile int *)8 = 1;
		else if (strcmp(fault, "exit") == 0)
			_exit(0);
		else if (strcmp(fault, "error") == 0)
			return (CK_RV)argument;
		break;
	}
	return CKR_OK;
}

static int is(const char *function, const char *want) {
	char fault[16];
	unsigned long argument;
	return told(function, fault, &argument) && strcmp(fault, want) == 0;
}

#define FORWARD(name, parameters, arguments)         \
	static CK_RV faulty_##name parameters {       \
		CK_RV rv = misbehave(#name);          \
		return rv != CKR_OK ? rv : real->name arguments; \
	}

FORWARD(C_Initialize, (CK_VOID_PTR args), (args))
FORWARD(C_GetSlotList, (CK_BBOOL present, CK_SLOT_ID_PTR slots, CK_ULONG_PTR count), (present, slots, count))
FORWARD(C_OpenSession, (CK_SLOT_ID slot, CK_FLAGS flags, CK_VOID_PTR app, CK_NOTIFY notify, CK_SESSION_HANDLE_PTR s), (slot, flags, app, notify, s))
FORWARD(C_Login, (CK_SESSION_HANDLE s, CK_USER_TYPE user, CK_UTF8CHAR_PTR pin, CK_ULONG size), (s, user, pin, size))
FORWARD(C_FindObjectsInit, (CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR template, CK_ULONG count), (s, template, count))
FORWARD(C_SignInit, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE key), (s, mechanism, key))
FORWARD(C_GenerateKeyPair,
	(CK_SESSION_HANDLE s, CK_MECHANISM_PTR mechanism, CK_ATTRIBUTE_PTR public, CK_ULONG publics, CK_ATTRIBUTE_PTR private, CK_ULONG privates,
		CK_OBJECT_HANDLE_PTR a, CK_OBJECT_HANDLE_PTR b),
	(s, mechanism, public, publics, private, privates, a, b))

static CK_RV faulty_C_GetTokenInfo(CK_SLOT_ID slot, CK_TOKEN_INFO_PTR info) {
	char fault[16];
	unsigned long argument;
	CK_RV rv = misbehave("C_GetTokenInfo");
	if (rv == CKR_OK)
		rv = real->C_GetTokenInfo(slot, info);
	if (rv == CKR_OK && told("C_GetTokenInfo", fault, &argument) && strcmp(fault, "flags") == 0)
		info->flags |= argument;
	return rv;
}

static CK_RV faulty_C_GetMechanismList(CK_SLOT_ID slot, CK_MECHANISM_TYPE_PTR mechanisms, CK_ULONG_PTR count) {
	CK_RV rv = misbehave("C_GetMechanismList");
	if (rv != CKR_OK)
		return rv;
	if (is("C_GetMechanismList", "empty")) {
		*count = 0;
		return CKR_OK;
	}
	return real->C_GetMechanismList(slot, mechanisms, count);
}

static CK_RV faulty_C_GetAttributeValue(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR template, CK_ULONG count) {
	CK_RV rv = misbehave("C_GetAttributeValue");
	if (rv == CKR_OK)
		rv = real->C_GetAttributeValue(s, o, template, count);
	if (rv == CKR_OK && is("C_GetAttributeValue", "garbage"))
		for (CK_ULONG i = 0; i < count; i++)
			if (template[i].pValue != NULL)
				memset(template[i].pValue, 0xa5, template[i].ulValueLen);
	if (rv == CKR_OK && is("C_GetAttributeValue", "derives"))
		for (CK_ULONG i = 0; i < count; i++)
			if (template[i].pValue != NULL && template[i].type == CKA_DERIVE)
				*(CK_BBOOL *)template[i].pValue = CK_TRUE;
	return rv;
}

/* The module is asked for the signature's length first, with no place for it. */
static CK_RV faulty_C_Sign(CK_SESSION_HANDLE s, CK_BYTE_PTR data, CK_ULONG size, CK_BYTE_PTR signature, CK_ULONG_PTR length) {
	CK_BYTE other[64] = {0};
	CK_RV rv = signature == NULL ? CKR_OK : misbehave("C_Sign");
	if (rv != CKR_OK) {
		real->C_Sign(s, data, size, signature, length); /* an error ends the operation */
		return rv;
	}
	if (is("C_Sign", "other") && size <= sizeof other)
		data = other;
	rv = real->C_Sign(s, data, size, signature, length);
	if (rv != CKR_OK || signature == NULL)
		return rv;
	if (is("C_Sign", "short"))
		*length -= 1;
	if (is("C_Sign", "empty"))
		*length = 0;
	if (is("C_Sign", "huge"))
		*length = 1ul << 30;
	if (is("C_Sign", "zero"))
		memset(signature, 0, *length);
	if (is("C_Sign", "bit"))
		signature[*length / 3] ^= 1;
	return rv;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR out) {
	if (real == NULL) {
		void *library = dlopen(REAL, RTLD_NOW | RTLD_LOCAL);
		CK_RV (*get)(CK_FUNCTION_LIST_PTR_PTR) = library == NULL ? NULL : (CK_RV(*)(CK_FUNCTION_LIST_PTR_PTR))dlsym(library, "C_GetFunctionList");
		if (get == NULL || get(&real) != CKR_OK)
			return CKR_GENERAL_ERROR;
		list = *real;
		list.C_GetFunctionList = C_GetFunctionList;
		list.C_Initialize = faulty_C_Initialize;
		list.C_GetSlotList = faulty_C_GetSlotList;
		list.C_GetTokenInfo = faulty_C_GetTokenInfo;
		list.C_OpenSession = faulty_C_OpenSession;
		list.C_Login = faulty_C_Login;
		list.C_FindObjectsInit = faulty_C_FindObjectsInit;
		list.C_SignInit = faulty_C_SignInit;
		list.C_Sign = faulty_C_Sign;
		list.C_GetMechanismList = faulty_C_GetMechanismList;
		list.C_GetAttributeValue = faulty_C_GetAttributeValue;
		list.C_GenerateKeyPair = faulty_C_GenerateKeyPair;
	}
	*out = &list;
	return CKR_OK;
}
