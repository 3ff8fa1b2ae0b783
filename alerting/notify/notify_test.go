package notify

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

func TestErrorsAreData(t *testing.T) {
	cause := errors.New("boom")
	if err := fmt.Errorf("wrapped: %w", Permanent(cause)); !IsPermanent(err) || !errors.Is(err, cause) || err.Error() != "wrapped: boom" {
		t.Errorf("permanent: %v", err)
	}
	err := fmt.Errorf("wrapped: %w", Throttled(cause, time.Minute))
	if wait, ok := ThrottledFor(err); !ok || wait != time.Minute || !errors.Is(err, cause) || IsPermanent(err) {
		t.Errorf("throttled: %v, %v, %v", wait, ok, err)
	}
	if _, ok := ThrottledFor(cause); ok || IsPermanent(cause) || IsPermanent(nil) {
		t.Error("a plain error is neither")
	}
	if Permanent(nil) != nil || Throttled(nil, time.Second) != nil {
		t.Error("nil does not stay nil")
	}
}

func TestSecretIsNeverSeen(t *testing.T) {
	config := struct {
		URL Secret `json:"url" yaml:"url"`
	}{"hunter22"}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "url", config.URL, "config", config)
	asJSON, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := yaml.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join([]string{
		log.String(), string(asJSON), string(asYAML),
		fmt.Sprint(config.URL), fmt.Sprintf("%v %+v %#v %q %s", config, config, config, config, config),
	}, "\n")
	if strings.Contains(all, "hunter22") || !strings.Contains(all, hidden) {
		t.Errorf("the secret is seen:\n%s", all)
	}
}

func TestAnswerHidesASecretThatIsCutOff(t *testing.T) {
	u, err := url.Parse("https://user:passw0rd@h/aaaa/" + strings.Repeat("s3cret", 20))
	if err != nil {
		t.Fatal(err)
	}
	secrets := secretsOf(u, map[string]string{"Authorization": "Bearer t0ken"})
	for before := range 140 {
		body := strings.Repeat(" ", answerBytes-before) + u.String()
		if got := answer(strings.NewReader(body), secrets); strings.Contains(got, "s3cret") || strings.Contains(got, "passw0rd") {
			t.Fatalf("with the cut %d bytes into it: %q", before, got)
		}
	}
	if got := answer(strings.NewReader("bad \x00token\n t0ken"), secrets); got != "bad token <secret>" {
		t.Errorf("answer = %q", got)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add("no_service\n", "/services/T0/B0/abcdefgh")
	f.Add("\xff\xfe<html>", "/x")
	f.Fuzz(func(t *testing.T, body, path string) {
		u := &url.URL{Scheme: "http", Host: "h", Path: path}
		got := answer(strings.NewReader(body), secretsOf(u, nil))
		if strings.ContainsAny(got, "\n\r\x00\x1b") || len([]rune(got)) > answerRunes+3 {
			t.Errorf("answer = %q", got)
		}
	})
}

func TestASecretIsLookedUpForEachUse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	t.Setenv("VIGIL_TEST_SECRET", "env")
	secret := Secret("https://h/${file:" + file + "}/${env:VIGIL_TEST_SECRET}")
	if _, err := secret.Reveal(); err == nil || IsPermanent(err) {
		t.Errorf("a file that is not there: %v", err)
	}
	for _, value := range []string{"one", "two"} {
		if err := os.WriteFile(file, []byte(value+"\r\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := secret.Reveal(); err != nil || got != "https://h/"+value+"/env" {
			t.Errorf("%q, %v", got, err)
		}
	}
	if err := os.WriteFile(file, make([]byte, maxSecretBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []Secret{secret, "${file:", "${env:VIGIL_TEST_NONE}", "${vault:x}"} {
		if got, err := bad.Reveal(); err == nil {
			t.Errorf("%s gives %d bytes", string(bad), len(got))
		}
	}
}
