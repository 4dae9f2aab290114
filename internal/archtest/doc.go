// Package archtest proves the package table of docs/decisions/0002-layout-and-imports.md: its tests load the module with
// `go list` and compare every package's imports with the row that the table gives it. The package holds only tests.
//
// It refuses a package without a row, a direct import that its row does not allow, a forbidden package anywhere below
// it, a library outside its border, and a pure package that does not compile to WebAssembly. Imports made by test files
// are free, except that nothing ever imports softhsm-test.
package archtest
