package law

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// missingTests names the tests of a page, `Test...` in `package`, that there are
// not.
func missingTests(t *testing.T, page, root string) (missing []string, named int) {
	t.Helper()
	for _, found := range regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)` in `([a-z0-9/]+)`").FindAllStringSubmatch(page, -1) {
		named++
		files, err := filepath.Glob(filepath.Join(root, found[2], "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		there := false
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			there = there || strings.Contains(string(text), "\nfunc "+found[1]+"(")
		}
		if !there {
			missing = append(missing, found[2]+" "+found[1])
		}
	}
	return missing, named
}

// TestHostilePageIsTrue: what docs/hostile.md says was tried is tried.
func TestHostilePageIsTrue(t *testing.T) {
	page, err := os.ReadFile("../../docs/hostile.md")
	if err != nil {
		t.Fatal(err)
	}
	missing, named := missingTests(t, string(page), "../..")
	if len(missing) > 0 || named < 20 {
		t.Errorf("the page names %d tests; there are not %v", named, missing)
	}
	if planted, _ := missingTests(t, "| x | `TestNothingOfTheSort` in `internal/law` |", "../.."); len(planted) != 1 {
		t.Error("a test that there is not is not missed")
	}
}
